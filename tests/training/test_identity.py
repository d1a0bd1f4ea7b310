"""A folder belongs to one run: the same run goes on in it, another one is told to take a folder of its own."""

import copy

import pytest
import torch

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import PreferenceConfig, SftConfig
from sparsepo.data.records import Prompt, Text
from sparsepo.fdpg.target import Target
from sparsepo.fdpg.trainer import OnPolicyTrainer
from sparsepo.runtime.errors import UserError
from sparsepo.training.identity import model_hash
from sparsepo.training.sft_trainer import SFTTrainer

RUN = {"max_steps": 2, "checkpoint_every": 1}


def refused(name):
    return pytest.raises(UserError, match=rf"is of another run \({name} differ\): take another folder$")


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


# --- preference training


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    trainer = toy.trainer(folder, **RUN)
    trainer.train()
    return folder, toy.weights(trainer.policy)


OTHERS = {
    "another seed": ({"seed": 1}, "seed"),
    "another learning rate": ({"learning_rate": 2e-3}, "config.learning_rate"),
    "another beta": ({"hyper": {"beta": 0.7}}, "hyper.beta"),
    "a mask": ({"hyper": {"mask": "random"}}, "hyper.mask, hyper.normalise"),
    "fewer pairs": ({"data": 16}, "pairs"),
    "validation": ({"validate_every": 1}, "config.validate_every, validation"),
}


@pytest.mark.parametrize("change", OTHERS)
def test_a_finished_folder_refuses_another_run_and_says_what_differs(toy, finished, change):
    changed, name = OTHERS[change]
    changed = {"validation": toy.pairs(4, seed=9)} | changed if "validate_every" in changed else changed
    with refused(name):
        toy.trainer(finished[0], **RUN | changed).train()


def test_a_finished_folder_refuses_another_method(toy, finished):
    with pytest.raises(UserError, match=r"another run \(.*method.* differ\)"):
        toy.trainer(finished[0], "hinge", **RUN).train()


def test_a_finished_folder_refuses_other_models(toy, finished):
    other = toy.model(seed=1)
    with refused("policy, reference"):
        toy.trainer(finished[0], reference=other, **RUN).train()


def test_pairs_in_another_order_are_another_run(toy, finished):
    with refused("pairs"):
        toy.trainer(finished[0], data=toy.pairs(20)[::-1], **RUN).train()


def test_the_same_run_in_a_finished_folder_has_its_weights_and_trains_nothing(toy, finished, capsys):
    folder, weights = finished
    again = toy.trainer(folder, hyper={"beta": 0.1}, **RUN)  # which is the default
    again.train()
    assert "resuming at step 2" in capsys.readouterr().out
    assert same(weights, toy.weights(again.policy))


def test_a_killed_run_without_an_identity_goes_on_and_ends_as_an_uninterrupted_one(toy, finished, tmp_path, capsys):
    toy.run_killed(toy.trainer(tmp_path, killed_at=2, **RUN))
    with refused("seed"):
        toy.trainer(tmp_path, seed=1, **RUN).train()
    capsys.readouterr()
    resumed = toy.trainer(tmp_path, **RUN)
    resumed.train()
    assert "resuming at step 1" in capsys.readouterr().out
    assert same(finished[1], toy.weights(resumed.policy))


def test_a_run_that_ran_out_of_memory_may_go_on_in_smaller_micro_batches(toy, finished, tmp_path, capsys):
    toy.run_killed(toy.trainer(tmp_path, killed_at=2, **RUN))
    capsys.readouterr()
    smaller = {"micro_batch_size": 2, "gradient_checkpointing": True, "layout": "padded", "gradients": "recompute"}
    resumed = toy.trainer(tmp_path, **RUN | smaller | {"log_every": 2})
    resumed.train()
    assert "resuming at step 1" in capsys.readouterr().out
    whole, ids = toy.model(), torch.arange(2, 20)[None]
    whole.load_state_dict(finished[1])
    with torch.no_grad():
        torch.testing.assert_close(resumed.policy.eval()(ids).logits, whole.eval()(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_folder_without_checkpoints_is_of_its_run_too(toy, tmp_path):
    toy.trainer(tmp_path, max_steps=1).train()
    before = (tmp_path / "dynamics.jsonl").read_text()
    with refused("seed"):
        toy.trainer(tmp_path, seed=1, max_steps=1).train()
    assert (tmp_path / "dynamics.jsonl").read_text() == before


def test_checkpoints_of_nobody_knows_which_run_are_not_deleted(toy, tmp_path):
    toy.trainer(tmp_path, identity="of a workflow", **RUN).train()
    with pytest.raises(UserError, match="has checkpoints of an unknown run: take another folder"):
        toy.trainer(tmp_path, **RUN).train()
    assert (tmp_path / "checkpoint-2").exists()


def test_a_given_identity_replaces_an_earlier_run_of_the_same_job(toy, tmp_path, capsys):
    toy.trainer(tmp_path, identity="first", **RUN).train()
    capsys.readouterr()
    toy.trainer(tmp_path, identity="second", seed=1, **RUN).train()
    assert "half-written, damaged, or from other settings, code or data; deleted" in capsys.readouterr().out


# --- the hash of a model


def test_a_model_has_one_hash_however_it_was_used_saved_and_loaded(toy, tmp_path):
    model = toy.model("llama")
    before = model_hash(model)
    toy.trainer(tmp_path / "work", reference=model, max_steps=1).train()
    model.save_pretrained(tmp_path / "saved")
    assert model_hash(model) == model_hash(type(model).from_pretrained(tmp_path / "saved")) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_weight_or_one_key_of_the_config_makes_another_hash(toy, dtype):
    model = toy.model("llama", dtype=dtype)
    hashes = {model_hash(model)}
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
        hashes.add(model_hash(model))
        model.lm_head.weight[3, 4] += 0.01
        hashes.add(model_hash(model))
    model.config.rms_norm_eps = 0.1
    hashes.add(model_hash(model))
    assert len(hashes) == 4


# --- the other trainers


def test_fine_tuning_refuses_the_folder_of_another_run(toy, tmp_path):
    def train(model_seed=0, count=20, **changed):
        texts = [Text(pair.chosen, pair.prompt) for pair in toy.pairs(count)]
        config = SftConfig(batch_size=8, max_steps=1, **changed)
        SFTTrainer(toy.model(seed=model_seed), toy.tokenizer, texts, config=config, folder=tmp_path).train()

    train()
    train()
    with refused("config.learning_rate"):
        train(learning_rate=0.1)
    with refused("documents"):
        train(count=19)
    with refused("model"):
        train(model_seed=1)


def test_f_dpg_refuses_the_folder_of_another_run(toy, tmp_path):
    reference = toy.model()

    def train(scale=1.0, divergence="kl", seed=0):
        OnPolicyTrainer(
            copy.deepcopy(reference),
            reference,
            toy.tokenizer,
            [Prompt(f"w0{number}") for number in range(8)],
            target=Target("length", lambda prompts, texts: [float(len(text)) for text in texts], scale),
            divergence=divergence,
            sampling=SamplingConfig(samples=2, max_new_tokens=4),
            config=PreferenceConfig(batch_size=8, max_steps=1, checkpoint_every=0),
            folder=tmp_path,
            seed=seed,
        ).train()

    train()
    with refused("target"):
        train(scale=2.0)
    with refused("seed"):
        train(seed=1)
