"""A model that brings code of its own goes through every stage where the config allows it."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from sparsepo.config.loading import load_config
from sparsepo.data.planted import reviews
from sparsepo.models.loading import fetch_model, save_model
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from transformers import GPT2Config, GPT2LMHeadModel


class TinyConfig(GPT2Config):
    model_type = "tiny-of-its-own"


class TinyLM(GPT2LMHeadModel):
    config_class = TinyConfig
"""
CONFIG = """\
name: tiny
tasks:
  small:
    model: {source: folder, path: model}
    data: {source: planted, texts: 40, prompts: {train: 10, validation: 8, test: 8}}
    preferences: {source: generated, scorer: {kind: vader}, sampling: {samples: 4, max_new_tokens: 16}}
    methods: {sparsepo_common: {beta: "0.5"}}
    training: {batch_size: 4, learning_rate: 1e-3}
    sampling: {max_new_tokens: 16}
    evaluation: {scorer: {kind: vader}, token_pairs: 4}
"""


def own_model(folder):
    scratch = {
        "source": "scratch",
        "config": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        "tokenizer": {"kind": "word", "vocab_size": 600},
        "seed": 0,
        "dtype": "float32",
    }
    save_model(*fetch_model(scratch, reviews(200, 0)), folder)
    settings = json.loads((folder / "config.json").read_text())
    modules = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModelForCausalLM": "modeling_tiny.TinyLM"}
    settings |= {"model_type": "tiny-of-its-own", "architectures": ["TinyLM"], "auto_map": modules}
    (folder / "config.json").write_text(json.dumps(settings))
    shutil.rmtree(folder / ".checksums")  # a folder of others has none
    (folder / "modeling_tiny.py").write_text(CODE)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """(stages, stage, run, options): a stage of the workflow, in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(stages, name, run="sft", **options):
        words = [name, "--settings", stages.settings(name, "small", run)]
        for key, value in options.items():
            words += [f"--{key.replace('_', '-')}", value]
        monkeypatch.setattr(sys, "argv", words)
        place = importlib.util.spec_from_file_location(name, ROOT / f"workflow_scripts/{name}.py")
        module = importlib.util.module_from_spec(place)
        place.loader.exec_module(module)
        module.main()

    yield call
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_with_code_of_its_own_is_trained_and_scored_if_and_only_if_the_config_allows_it(
    tmp_path, stage, capsys
):
    own_model(tmp_path / "model")
    Path("own.yaml").write_text(CONFIG)
    refusing, stages = (
        Stages(load_config("own.yaml", {"tasks__small__model__trust_remote_code": said})) for said in ("false", "true")
    )
    _, run = stages.runs("small")
    stage(stages, "prepare_data", out=".")
    prompts = {split: f"prompts/{split}.jsonl" for split in ("validation", "test")}
    made = {"config": "{}", "corpus": "corpus.jsonl", "checkpoint": "sft/checkpoint", "out": "sft"}
    with pytest.raises(UserError, match="only if the config says model.trust_remote_code: true"):
        stage(refusing, "train_sft", **made)
    assert not Path("sft/config.json").exists()
    stage(stages, "train_sft", **made)
    both = {"train": "prompts/train.jsonl", "validation": prompts["validation"], "result_cache": "cache"}
    stage(stages, "build_preferences", reference="sft", out="pairs", **both)
    pairs = {"pairs": "pairs/train.jsonl", "validation": "pairs/validation.jsonl", "prompts": prompts["test"]}
    more = {"config": "{}", "checkpoint": "policy/checkpoint", "out": "policy"}
    stage(stages, "train_policy", run, reference="sft", **pairs, **more)
    stage(stages, "sample_responses", run, policy="policy", **prompts, out="samples.jsonl", result_cache="cache")
    scored = {
        "samples": "samples.jsonl",
        "pairs": pairs["validation"],
        "scores": "scores.json",
        "tokens": "tokens.jsonl",
    }
    stage(stages, "evaluate_run", run, policy="policy", reference="sft", **scored)
    assert json.loads(Path("policy/config.json").read_text())["architectures"] == ["TinyLM"]
    assert json.loads(Path("scores.json").read_text())["method"] == "sparsepo_common"
    log = capsys.readouterr().out
    assert all(
        f"trust_remote_code: code of {folder} at revision modeling_tiny.py:" in log
        for folder in ("model", "sft", "policy")
    )
