"""A tiny task, prepared once by Snakemake up to its pairs, and the commands of its stages as Snakemake starts them."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ("Snakefile", "rules", "workflow_scripts", "src", "profiles", "envs")
RUN = "sparsepo_independent/beta~0.5/seed~0"
CONFIG = """\
name: tiny

tasks:
  small:
    model:
      source: scratch
      config: {model_type: gpt2, n_layer: 2, n_head: 2, n_embd: 32, n_positions: 64, resid_pdrop: 0.0}
      tokenizer: {kind: word, vocab_size: 600}
    data: {source: planted, texts: 80, prompts: {train: 24, validation: 12, test: 12}}
    sft: {num_train_epochs: 20, batch_size: 10, learning_rate: 3e-3, checkpoint_every: 7}
    preferences: {source: generated, scorer: {kind: vader}, sampling: {samples: 4, max_new_tokens: 16}}
    methods: {sparsepo_independent: {beta: ["0.5"]}}
    training: {max_steps: 160, batch_size: 6, learning_rate: 1e-4, reference: online, checkpoint_every: 7, \
validate_every: 40, checkpoint_selection: best, frontier_every: 50}
    sampling: {samples: 8, max_new_tokens: 24, batch_size: 2}
    evaluation: {scorer: {kind: vader}, token_pairs: 4, batch_size: 4, frontier_prompts: 4}
"""
CLOCK = ("tokens_per_second", "seconds")


@dataclass(frozen=True)
class Place:
    """A folder with the workflow and the results of the tiny task, as far as they are made."""

    folder: Path

    @property
    def results(self):
        return self.folder / "results/small"

    @property
    def run(self):
        return self.results / "runs" / RUN

    def python(self, *arguments):
        return [sys.executable, *map(str, arguments)]

    def stage(self, name, **options):
        """The command of a stage: its script with its settings and these options."""
        from sparsepo.workflow.stages import Stages

        settings = Stages.read([self.folder / "config.yaml"], {}).settings(name, task="small", run=RUN)
        options |= {"settings": settings, "code_version": "same"}
        words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
        return self.python(ROOT / "workflow_scripts" / f"{name}.py", *words)

    def train(self, out):
        """The command that trains the policy into a folder."""
        made = {"reference": self.results / "sft", "prompts": self.results / "prompts/test.jsonl"}
        made |= {split: self.results / f"preferences/{name}.jsonl" for split, name in SPLITS.items()}
        return self.stage("train_policy", **made, config="{}", checkpoint=out / "checkpoint", out=out)

    def sft(self, out):
        """The command that makes the reference model in a folder."""
        made = {"corpus": self.results / "corpus.jsonl", "config": "{}", "checkpoint": out / "checkpoint"}
        return self.stage("train_sft", **made, out=out)

    def sample(self, out):
        """The command that samples the reference model into a file."""
        made = {"policy": self.results / "sft", "result_cache": kept_beside(out)}
        made |= {split: self.results / f"prompts/{split}.jsonl" for split in ("validation", "test")}
        return self.stage("sample_responses", **made, out=out)

    def snakemake(self, *arguments):
        return self.python("-m", "snakemake", "--cores", "1", *arguments)


SPLITS = {"pairs": "train", "validation": "validation"}


def kept_beside(path):
    return path.with_name(f"{path.name}.partial")


def variables():
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def finish(command, folder, ok=True):
    """Run a command to its end; what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=variables(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert (done.returncode == 0) is ok, done.stdout
    return done.stdout


def start(command, folder, log):
    with open(log, "w") as file:
        return subprocess.Popen(command, cwd=folder, env=variables(), stdout=file, stderr=subprocess.STDOUT)


def lines(path):
    """How many whole lines a file has; one that is not there has none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(condition, process):
    """Return when the condition holds; the process must still run then."""
    while not condition():
        assert process.poll() is None, "it ended too early"
        time.sleep(0.002)


def kill_when(command, folder, log, condition):
    """Start a command and SIGKILL it as soon as the condition holds; what it printed until then."""
    process = start(command, folder, log)
    try:
        wait_for(condition, process)
    finally:
        process.kill()
        code = process.wait()
    assert code == -signal.SIGKILL, log.read_text()
    return log.read_text()


def rows(path):
    """Lines of a log, without the numbers of the clock."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in found]


def left_by(folder):
    """All that a stage left in its folder: bytes, logs without the clock; of run.json what is no time and no place."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".sha256"):
        name = str(path.relative_to(folder))
        found[name] = rows(path) if path.suffix == ".jsonl" else path.read_bytes()
    if "run.json" in found:
        record = json.loads(found["run.json"])
        found["run.json"] = {key: record.get(key) for key in ("settings", "seeds", "pairs", "kept_step")}
    return found


def orphans_have_ended(folder):
    """Return when no process works in the folder any more; they are given a minute."""
    for _ in range(600):
        if not workers(folder):
            return
        time.sleep(0.1)
    raise AssertionError(f"{workers(folder)} still run")


def workers(folder):
    """Processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def copy_workflow(folder):
    folder.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in WORKFLOW:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy2(ROOT / name, folder / name)
    (folder / "config.yaml").write_text(CONFIG)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, worker_id):
    """The tiny task with its pairs; made once for all workers of pytest-xdist, and left as it is."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    place = Place(shared / "prepared")
    with open(shared / "prepared.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place.folder / "finished").exists():
            shutil.rmtree(place.folder, ignore_errors=True)
            copy_workflow(place.folder)
            finish(place.snakemake("preferences"), place.folder)
            (place.folder / "finished").touch()
    return place


@pytest.fixture
def moved(prepared, tmp_path):
    """A copy of the prepared folder, to break."""
    return Place(Path(shutil.copytree(prepared.folder, tmp_path / "moved")))


@pytest.fixture(scope="session")
def environment():
    """The variables of a process that runs a stage."""
    return variables()


@pytest.fixture(scope="session")
def lab():
    """The functions above, for tests."""
    functions = (
        finish,
        start,
        wait_for,
        kill_when,
        lines,
        rows,
        left_by,
        kept_beside,
        copy_workflow,
        orphans_have_ended,
    )
    return SimpleNamespace(RUN=RUN, Place=Place, **{function.__name__: function for function in functions})
