"""README.md is true: its table, its links, its code, its length."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import sparsepo
from sparsepo.config.loading import load_config
from sparsepo.workflow.readme_table import TABLES, with_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_DATA = ROOT / "configs/own_data.yaml"


@pytest.mark.parametrize("page", TABLES)
def test_the_tables_of_methods_are_those_of_the_code(page):
    assert (ROOT / page).read_text(encoding="utf-8") == with_table(page), "run python -m sparsepo.workflow.readme_table"


def test_it_is_short():
    assert len(README.split()) < 900


def test_the_config_for_own_data_is_the_file():
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.S)
    lines = OWN_DATA.read_text(encoding="utf-8").splitlines(keepends=True)
    assert shown == "".join(line for line in lines if not line.startswith("#"))
    assert len(shown.splitlines()) <= 15


def test_the_config_for_own_data_loads_with_a_file_of_pairs(tmp_path, monkeypatch):
    (pair,) = re.findall(r"`(\{\"prompt\".*?\})`", README)
    (tmp_path / "pairs.jsonl").write_text(pair + "\n")
    monkeypatch.chdir(tmp_path)
    task = load_config(OWN_DATA).tasks["own_data"]
    assert set(task.methods) == set(yaml.safe_load(OWN_DATA.read_text())["tasks"]["own_data"]["methods"])


def test_the_drawing_has_the_names_of_rules():
    (drawing,) = re.findall(r"```mermaid\nflowchart LR\n(.*?)```", README, flags=re.S)
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    names = set(re.findall(r"\w+", drawing))
    assert len(names) > 8 and names <= set(re.findall(r"^use rule \w+ as (\w+) with:", rules, flags=re.M))


def test_every_file_it_links_to_or_names_is_there():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    names = re.findall(r"`((?:configs|docs|src|schemas|tests)/[\w./-]+)`", README)
    assert len(links) >= 3 and names
    missing = [name for name in [*links, *names] if not (ROOT / name).exists()]
    assert not missing


def test_the_example_uses_names_that_exist():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imports if node.module == "sparsepo" for alias in node.names]
    assert names and all(hasattr(sparsepo, name) for name in names)


def test_the_example_runs(tmp_path, monkeypatch):
    from sparsepo.models.loading import fetch_model, save_model

    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    config = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 32}
    tokenizer = {"kind": "bpe", "vocab_size": 300}
    spec = {"source": "scratch", "config": config, "tokenizer": tokenizer, "seed": 0, "dtype": "float32"}
    monkeypatch.chdir(tmp_path)
    model, tokenizer = fetch_model(spec, ["The film was a joy.", "The film was a bore."])
    tokenizer.pad_token = None  # as GPT-2's and many others'
    save_model(model, tokenizer, "my-sft-model")
    exec(code, {})
    assert (tmp_path / "policy" / "model.safetensors").exists() and (tmp_path / "policy" / "masks.safetensors").exists()


def test_importing_the_package_imports_no_torch():
    import subprocess
    import sys

    loaded = "'torch' in sys.modules or 'transformers' in sys.modules"
    code = f"import sys, sparsepo, sparsepo.workflow.stages; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_resolves():
    assert all(getattr(sparsepo, name) is not None for name in sparsepo.__all__)
