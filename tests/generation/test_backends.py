"""Which back end is taken, and what vLLM is asked for: a stand-in with the names of its interface looks at it."""

import json
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import AdapterConfig
from sparsepo.data.records import Prompt
from sparsepo.generation.generate import check_prompt_lengths, load_backend, sample, sampling_dtype
from sparsepo.generation.sampler import response_seed
from sparsepo.generation.vllm import VllmEngine
from sparsepo.models.adapters import add_adapter, save_trained
from sparsepo.models.loading import load_model, save_model, train_tokenizer
from sparsepo.runtime.errors import UserError

WORDS = [f"w{number}" for number in range(20)]
PROMPTS = [Prompt("w1 w2 w3", "long"), Prompt("w4", "short"), Prompt("w5", "other")]


@dataclass(frozen=True)
class SamplingParams:
    """The arguments of vLLM's class that we give; any other name is a TypeError."""

    n: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_tokens: int
    stop: list[str] = field(hash=False)
    stop_token_ids: list[int] = field(hash=False)


class LLM:
    """Answers every prompt with its own ids and the end token, and remembers what it was asked."""

    def __init__(self, **settings):
        if "broken" in settings["model"]:
            raise ValueError("head size 4 is not supported\nmore of it")
        self.settings, self.asked = settings, []

    def generate(self, prompts, sampling_params, lora_request=None):
        self.lora_request = lora_request
        self.asked.append((prompts, sampling_params))
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=(*prompt["prompt_token_ids"], 0))]) for prompt in prompts
        ]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], "word", 100)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("policy")
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=16, **ids)
    save_model(GPT2LMHeadModel(config), tokenizer, path)
    return path


@pytest.fixture
def vllm(monkeypatch):
    """The package, as far as we use it, and a machine on which it can be."""
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    request = ModuleType("vllm.lora.request")
    request.LoRARequest = lambda name, number, path: (name, number, path)
    monkeypatch.setitem(sys.modules, "vllm.lora.request", request)
    monkeypatch.setattr("sparsepo.generation.generate.vllm_usable", lambda folder: True)


# --- which


def test_precision_is_bfloat16_where_a_gpu_computes_in_it(monkeypatch):
    for there, native, name in ((False, False, "float32"), (True, False, "float32"), (True, True, "bfloat16")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert sampling_dtype() == name


@pytest.mark.parametrize("gpu, package", [(False, False), (False, True), (True, False)])
def test_vllm_needs_a_gpu_and_the_package(monkeypatch, gpu, package):
    from sparsepo.generation.vllm import vllm_usable

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("sparsepo.generation.vllm.find_spec", lambda name: object() if package else None)
    assert not vllm_usable("anywhere")


def test_both_together_are_enough(monkeypatch):
    from sparsepo.generation.vllm import vllm_usable

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("sparsepo.generation.vllm.find_spec", lambda name: object() if name == "vllm" else None)
    assert vllm_usable("anywhere")


def test_without_vllm_a_policy_is_a_model_of_transformers(monkeypatch, folder):
    monkeypatch.setattr("sparsepo.generation.generate.vllm_usable", lambda folder: False)
    assert isinstance(load_backend(folder), GPT2LMHeadModel)


def test_weights_in_4_bits_stay_with_transformers(vllm, monkeypatch, folder):
    asked = {}
    monkeypatch.setattr("sparsepo.generation.generate.load_model", lambda *args, **how: asked.update(how))
    load_backend(folder, quantization="nf4", compute="bfloat16")
    assert asked == {"quantization": "nf4", "compute": "bfloat16"}


# --- what vLLM is asked for


def test_each_request_has_its_own_seed_by_the_same_rule_as_our_numbers(vllm, folder, tokenizer):
    engine = load_backend(folder)
    config = SamplingConfig(samples=2, temperature=0.5, top_p=0.9, max_new_tokens=7, seed=3)
    sample(engine, tokenizer, PROMPTS, config, ("stop",))
    ((prompts, wanted),) = engine._llm.asked
    rows = [prompt["prompt_token_ids"] for prompt in prompts]
    assert rows == [tokenizer(text)["input_ids"] for text in ("w4", "w4", "w5", "w5", "w1 w2 w3", "w1 w2 w3")]
    assert [one.seed for one in wanted] == [response_seed(3, row, place % 2) for place, row in enumerate(rows)]
    assert len({one.seed for one in wanted}) == 6 and all(0 <= one.seed < 2**63 for one in wanted)


def test_what_is_drawn_from_is_what_the_config_says_and_nothing_else(vllm, folder, tokenizer):
    """top_k is off, and the model's own generation config is set aside."""
    engine = load_backend(folder)
    sample(engine, tokenizer, PROMPTS, SamplingConfig(temperature=0.5, top_p=0.9, max_new_tokens=7), ("\nclass",))
    first = engine._llm.asked[0][1][0]
    assert (first.temperature, first.top_p, first.top_k, first.n, first.max_tokens) == (0.5, 0.9, -1, 1, 7)
    assert (first.stop, first.stop_token_ids) == (["\nclass"], [tokenizer.eos_token_id])
    assert engine._llm.settings == {
        "model": str(folder),
        "dtype": sampling_dtype(),
        "generation_config": "vllm",
        "enable_prefix_caching": True,
    }


@pytest.fixture
def adapter(folder, tokenizer, tmp_path):
    model = load_model(folder)
    config = AdapterConfig(rank=10)
    add_adapter(model, config)
    save_trained(model, tokenizer, tmp_path / "adapter", config)
    return tmp_path / "adapter"


def test_an_adapter_is_served_on_its_base(vllm, folder, adapter, tokenizer):
    engine = load_backend(adapter)
    assert engine.config.n_embd == 8
    sample(engine, tokenizer, PROMPTS, SamplingConfig())
    served = {name: engine._llm.settings[name] for name in ("model", "tokenizer", "enable_lora", "max_lora_rank")}
    assert served == {"model": str(folder), "tokenizer": str(adapter), "enable_lora": True, "max_lora_rank": 16}
    assert engine._llm.lora_request == ("policy", 1, str(adapter))


@pytest.mark.parametrize(
    "file, change",
    [
        ("base_loading.json", {"quantization": "nf4"}),
        ("adapter_config.json", {"modules_to_save": ["wte"]}),
        ("adapter_config.json", {"r": 600}),
        ("adapter_config.json", {"use_dora": True}),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_stays_with_transformers(monkeypatch, adapter, file, change):
    from sparsepo.generation.vllm import vllm_usable

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("sparsepo.generation.vllm.find_spec", lambda name: object())
    assert vllm_usable(adapter)
    path = adapter / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not vllm_usable(adapter)


def test_its_answers_become_records_in_the_order_of_the_prompts(vllm, folder, tokenizer):
    made = sample(load_backend(folder), tokenizer, PROMPTS, SamplingConfig(samples=2))
    assert [row.id for row in made] == ["long", "long", "short", "short", "other", "other"]
    assert [row.text.split() for row in made] == [row.prompt.split() for row in made]
    assert all(row.ended and row.tokens[-1] == tokenizer.eos_token_id for row in made)


def test_its_text_is_cut_at_a_stop_as_ours_is(vllm, folder, tokenizer):
    """vLLM may return the tokens of the stop."""
    made = sample(load_backend(folder), tokenizer, PROMPTS[:1], SamplingConfig(), ("w3",))
    assert (made[0].text.split(), made[0].ended) == (["w1", "w2"], True)


def test_room_in_the_context_is_checked_for_it_too(vllm, folder, tokenizer):
    with pytest.raises(UserError, match="context of 16"):
        check_prompt_lengths(
            load_backend(folder), tokenizer, PROMPTS, SamplingConfig(max_new_tokens=14), "prompts.jsonl"
        )


def test_a_model_that_vllm_refuses_is_told_with_what_to_do(vllm, folder, tmp_path):
    broken = tmp_path / "broken"
    broken.symlink_to(folder)
    with pytest.raises(UserError, match="head size 4 is not supported.*without the package vllm") as refused:
        VllmEngine(broken, "bfloat16")
    assert "more of it" not in str(refused.value)
