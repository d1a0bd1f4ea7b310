"""Toy models, a toy tokenizer and toy pairs: a training run takes a fraction of a second."""

import copy
import json
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Preference
from sparsepo.models.loading import train_tokenizer
from sparsepo.training.preference_trainer import PreferenceTrainer

WORDS = [f"w{number:02}" for number in range(60)]
SETTINGS = {"batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 0}
CLOCK = ("tokens_per_second", "seconds")
SIZES = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48},
    "gpt_bigcode": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48},
}
OTHER_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 48,
}


class Killed(Exception):
    """What stands for a kill: nothing of the package catches it."""


class Kill(TrainerCallback):
    """Ends a run within step `step`: the weights have moved, the step is neither logged nor saved."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


@pytest.fixture(scope="session", autouse=True)
def one_thread_of_the_processor():
    """Models this small are slower on several threads; and only on a CPU are two runs equal bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], "word", 100)


@pytest.fixture(scope="session")
def toy(tokenizer):
    """`tokenizer`, `kill` and the functions below."""

    def model(architecture="gpt2", seed=0, **changed):
        """A random one, in training mode as `from_config` leaves it; small logits would hide differences."""
        torch.manual_seed(seed)
        sizes = SIZES.get(architecture, OTHER_SIZES) | {"initializer_range": 0.2} | changed
        dtype = sizes.pop("dtype", torch.float32)
        ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
        config = AutoConfig.for_model(architecture, **sizes, **ids, vocab_size=len(tokenizer))
        return AutoModelForCausalLM.from_config(config, dtype=dtype)

    def pairs(count, seed=0, sizes=False):
        """Prompts of 2-4 words, responses of 3-8, none alike; each response with a score and numbers of its tokens,
        which are 0 or more where they are sizes."""
        draw = random.Random(seed)
        words = [
            [" ".join(draw.sample(WORDS, draw.randint(*r))) for r in ((2, 4), (3, 8), (3, 8))] for _ in range(count)
        ]
        number = (lambda: abs(draw.gauss(0, 1))) if sizes else (lambda: draw.gauss(0, 1))
        values = [[[number() for _ in f"{text} end".split()] for text in texts[1:]] for texts in words]
        return [
            Preference(*texts, 1.0 + draw.random(), draw.random(), chosen_values=chosen, rejected_values=rejected)
            for texts, (chosen, rejected) in zip(words, values, strict=True)
        ]

    def trainer(folder, method="dpo", *, reference=None, policy=None, data=20, killed_at=None, **given):
        """Settings of the config by name; `data`: the pairs, or how many of them."""
        names = ("hyper", "seed", "identity", "measure", "caches", "validation", "starts_as_reference")
        own_tokenizer = given.pop("tokenizer", tokenizer)
        options = {name: given.pop(name) for name in names if name in given}
        if "caches" not in options:
            reference = model() if reference is None else reference
        made = PreferenceTrainer(
            copy.deepcopy(reference) if policy is None else policy,
            reference,
            own_tokenizer,
            pairs(data, sizes=method == "ti_dpo") if isinstance(data, int) else data,
            method=method,
            config=PreferenceConfig(**SETTINGS | given),
            folder=folder,
            **options,
        )
        if killed_at is not None:
            made.add_callback(Kill(killed_at))
        return made

    def rows(folder, name="dynamics.jsonl"):
        """Lines of a log, without the numbers of the clock."""
        found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        return [{name: value for name, value in row.items() if name not in CLOCK} for row in found]

    def weights(module):
        return {name: value.clone() for name, value in module.state_dict().items()}

    def run_killed(made):
        with pytest.raises(Killed):
            made.train()

    made = (model, pairs, trainer, rows, weights, run_killed)
    return SimpleNamespace(tokenizer=tokenizer, kill=Kill, **{function.__name__: function for function in made})
