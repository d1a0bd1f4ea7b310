"""A tiny run of the workflow in a copy of it, made once; a test looks at it or changes a copy of its own."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ("Snakefile", "rules", "workflow_scripts", "src", "profiles", "envs")

TINY = """\
name: tiny

tasks:
  small:
    model:
      source: scratch
      config: {model_type: gpt2, n_layer: 2, n_head: 2, n_embd: 32, n_positions: 64}
      tokenizer: {kind: word, vocab_size: 600}
    data: {source: planted, texts: 60, prompts: {train: 20, validation: 8, test: 8}}
    sft: {num_train_epochs: 1, batch_size: 10, learning_rate: 1e-2}
    preferences: {source: generated, scorer: {kind: vader}, sampling: {samples: 4, max_new_tokens: 16}}
    methods:
      dpo: {beta: ["0.1"]}
      sparsepo_common: {beta: ["0.5"]}
    seeds: [0]
    training: {num_train_epochs: 2, batch_size: 10, learning_rate: 1e-3, frontier_every: 0}
    sampling: {max_new_tokens: 16}
    evaluation: {scorer: {kind: vader}, token_pairs: 4}
"""


def run_snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="session")
def snakemake():
    """(folder, *arguments) -> snakemake run there; what it printed is in `stdout`."""
    return run_snakemake


@pytest.fixture(scope="session")
def tiny():
    """The config of the tiny run, as text."""
    return TINY


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A folder with the workflow and the results of a tiny run, made once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "tiny-run"
    with open(shared / "tiny-run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished").exists():
            copy_workflow(folder)
            done = run_snakemake(folder, "--cores", "2")
            assert done.returncode == 0, done.stdout
            (folder / "finished").touch()
    return folder


@pytest.fixture
def unfinished(tmp_path):
    """A copy of the workflow with the tiny config, before any run."""
    return copy_workflow(tmp_path / "again")


@pytest.fixture
def finished(original, tmp_path):
    """A copy of the finished run, somewhere else."""
    return Path(shutil.copytree(original, tmp_path / "moved"))


def copy_workflow(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in WORKFLOW:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        options = {"ignore": shutil.ignore_patterns("__pycache__", "*.egg-info")} if copy is shutil.copytree else {}
        copy(ROOT / name, folder / name, **options)
    (folder / "config.yaml").write_text(TINY)
    return folder
