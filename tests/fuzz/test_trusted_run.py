"""A model that brings code of its own goes through the whole workflow where the config allows it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo.models import fetch_model, save_model

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
    from sparsepo.data.planted import reviews

    scratch = {
        "source": "scratch",
        "config": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        "tokenizer": {"kind": "word", "vocabulary": 600},
        "seed": 0,
        "dtype": "float32",
    }
    save_model(*fetch_model(scratch, reviews(200, 0)), folder)
    settings = json.loads((folder / "config.json").read_text())
    modules = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModelForCausalLM": "modeling_tiny.TinyLM"}
    settings |= {"model_type": "tiny-of-its-own", "architectures": ["TinyLM"], "auto_map": modules}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "modeling_tiny.py").write_text(CODE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_with_code_of_its_own_is_trained_and_scored_if_and_only_if_the_config_allows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    own_model(tmp_path / "model")
    (tmp_path / "own.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--directory", tmp_path, "--cores", "1"]
    command += ["--configfile", "own.yaml"]

    def run(target, *more):
        words = list(map(str, [*command[:3], target, *command[3:], *more]))
        return subprocess.run(words, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    refused = run("sft")
    assert refused.returncode == 1 and "only if the config says model.trust_remote_code: true" in refused.stdout
    assert "Traceback" not in refused.stdout
    done = run("scores", "--config", "tasks__small__model__trust_remote_code=true")
    assert done.returncode == 0, done.stdout
    run_folder = tmp_path / "results/small/runs/sparsepo_common/beta~0.5/seed~0"
    assert json.loads((run_folder / "config.json").read_text())["architectures"] == ["TinyLM"]
    logs = [path for path in (tmp_path / "logs").rglob("*.log") if path.name not in ("data.log",)]
    for path in logs:
        assert "trust_remote_code: code of " in path.read_text() and "modeling_tiny.TinyLM" in path.read_text(), path
