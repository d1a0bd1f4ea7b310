"""profiles/slurm on a real Slurm with two stand-in GPUs a node: whole runs, lost jobs, and what comes after.

One run is made and harmed: both training jobs are held in their middle; one is cancelled, the other's time is up. The
tests look at what was left. Another run is on two nodes, which are one machine.
"""

import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sparsepo.monitor.job_state import Machine
from sparsepo.monitor.plan_file import read_plan
from sparsepo.monitor.sweep import read_sweep
from sparsepo.runtime.status import read_status

ROOT = Path(__file__).resolve().parents[2]
NODE = Path(__file__).with_name("slurm_node.sh")
SLURM_CONF = Path("/etc/slurm/slurm.conf")
CONFIG = """\
name: cluster

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
    training: {max_steps: 150, checkpoint_every: 10, batch_size: 10, learning_rate: 1e-3, frontier_every: 0}
    sampling: {max_new_tokens: 16}
    evaluation: {scorer: {kind: vader}, token_pairs: 4}
    resources: {mem_mb: 2000, runtime: 10}
"""
CANCELLED, OVERDUE = "dpo/beta~0.1/seed~0", "sparsepo_common/beta~0.5/seed~0"
RUNS = {CANCELLED: "CANCELLED", OVERDUE: "TIMEOUT"}


def missing():
    """Why Slurm cannot be started here; empty if it can."""
    absent = [name for name in ("slurmctld", "slurmd", "munged", "sbatch", "srun") if shutil.which(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    if os.getuid() != 0:
        return "needs root, to start slurmctld and slurmd"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "snakemake-executor-plugin-slurm is not installed: pip install -e '.[slurm]'"
    return f"this machine has a Slurm of its own ({SLURM_CONF})" if SLURM_CONF.exists() else ""


pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@contextmanager
def slurm(folder, nodes=1):
    """A running Slurm, stopped whatever happens."""
    try:
        subprocess.run([NODE, "start", folder, str(nodes)], check=True)
        yield
    finally:
        subprocess.run([NODE, "stop", folder], check=True)


def snakemake(folder, *arguments):
    """The command line of this workflow with the small config, in `folder`."""
    given = [*arguments, "-s", ROOT / "Snakefile", "--directory", folder, "--configfile", folder / "own.yaml"]
    return [sys.executable, "-m", "snakemake", *map(str, given)]


def through_slurm(folder, target="tables", *arguments):
    """Start the config through the shipped profile, up to a target; only the looks at the queue are more frequent."""
    brief = ["--slurm-init-seconds-before-status-checks", "5", *arguments]
    command = snakemake(folder, target, "--workflow-profile", ROOT / "profiles/slurm", "--jobs", "4", *brief)
    with open(folder / "out.txt", "w") as out:
        return subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)


def training(folder, run):
    """The process that trains this run, or None."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if len(words) > 1 and words[1].endswith("/train_policy.py") and f"results/small/runs/{run}" in words:
            if process.cwd() == str(folder):
                return process
    return None


def hold_both(folder, controller):
    """Stop both training processes after a checkpoint, so that both are there at once; run -> process."""
    held = {}
    while len(held) < len(RUNS):
        assert controller.poll() is None, (folder / "out.txt").read_text()
        for run in RUNS.keys() - held.keys():
            if any((folder / f"results/small/runs/{run}/checkpoint").glob("checkpoint-*/complete.json")):
                held[run] = training(folder, run)
                held[run].suspend()
        time.sleep(0.05)
    return held


def state_of(job):
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return re.search(r"JobState=(\w+)", shown)[1]


def lose(jobs):
    """Cancel one job, end the time of the other, and wait for both to be gone; run -> Slurm's state of its job."""
    subprocess.run(["scancel", jobs[CANCELLED]], check=True)
    subprocess.run(["scontrol", "update", f"jobid={jobs[OVERDUE]}", "endtime=now"], check=True)
    while {"RUNNING", "COMPLETING"} & {state_of(job) for job in jobs.values()}:
        time.sleep(0.5)
    return {run: state_of(job) for run, job in jobs.items()}


def harmed_run(folder):
    """Run the config with both training jobs lost once; what can be known only meanwhile."""
    controller = through_slurm(folder)
    try:
        held = hold_both(folder, controller)
        seen = {run: process.environ() for run, process in held.items()}
        states = lose({run: variables["SLURM_JOB_ID"] for run, variables in seen.items()})
        code = controller.wait()
    finally:
        controller.kill()  # at once, as an unfinished run is of no use
        controller.wait()
    gpus = {run: variables.get("CUDA_VISIBLE_DEVICES") for run, variables in seen.items()}
    return {"code": code, "states": states, "gpus": gpus, "process": controller.pid}


@pytest.fixture(scope="session")
def story(tmp_path_factory):
    """The folder of the harmed run, made once for all workers of pytest-xdist; `story.json` says what happened."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "slurm" / "run"
    with open(shared / "slurm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "story.json").exists():
            if why := missing():
                pytest.skip(why)
            folder.mkdir(parents=True)
            (folder / "own.yaml").write_text(CONFIG)
            with slurm(folder.parent / "node"):
                told = harmed_run(folder)
            (folder / "story.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def told(story):
    return json.loads((story / "story.json").read_text())


def test_a_config_runs_through_the_profile_to_its_tables(story, told):
    out = (story / "out.txt").read_text()
    assert told["code"] == 0, out
    plan = subprocess.run(snakemake(story, "tables", "-n"), cwd=story, capture_output=True, text=True)
    assert "Nothing to be done" in plan.stdout + plan.stderr
    jobs = int(re.search(r"^total +(\d+)$", out, re.MULTILINE)[1]) - 1  # `tables` itself has nothing to do
    assert out.count("has been submitted with SLURM jobid") == jobs + len(RUNS)


def test_jobs_at_a_time_have_a_gpu_each(told):
    assert sorted(told["gpus"].values()) == ["0", "1"]


def test_the_plan_is_that_of_the_snakemake_that_sent_the_jobs_and_ends_with_it(story, told):
    plan = read_plan(story / "results")
    assert (plan.process, plan.local) == (told["process"], False) and plan.ended is not None
    sweep = read_sweep(story / "results", plan, Machine())
    assert sweep.is_over and [run.state for run in sweep.tasks[0].runs] == ["done", "done"]


@pytest.mark.parametrize("run", RUNS)
def test_a_job_that_slurm_ended_is_sent_again_and_goes_on(story, told, run):
    assert told["states"][run] == RUNS[run]
    log = (story / f"logs/small/train_policy/{run}.log").read_text()
    assert int(re.search(r"^resuming at step (\d+) from ", log, re.MULTILINE)[1]) >= 10


def rows(path):
    """Steps as they were logged, without their speed."""
    return [{**json.loads(line), "tokens_per_second": 0} for line in path.read_text().splitlines()]


def test_lost_jobs_end_with_the_weights_of_an_uninterrupted_run(story, tmp_path):
    straight = tmp_path / "straight"
    shutil.copytree(story, straight)
    shutil.rmtree(straight / "results/small/runs")
    done = subprocess.run(snakemake(straight, "train", "--cores", "2"), cwd=straight, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for run in RUNS:
        ours, theirs = (folder / f"results/small/runs/{run}" for folder in (story, straight))
        assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
        assert rows(ours / "dynamics.jsonl") == rows(theirs / "dynamics.jsonl")
        assert "resuming" not in (straight / f"logs/small/train_policy/{run}.log").read_text()


# --- a run on two nodes

ON_TWO = "tasks__small__training={num_processes: 2, num_machines: %s, max_steps: 20, batch_size: 10, frontier_every: 0}"


def test_a_run_on_two_nodes_is_that_of_two_processes_on_one(story, tmp_path):
    """Each node gives one GPU and has one process, whose log and state are those of the job."""
    target = f"results/small/runs/{CANCELLED}/run.json"
    folders = {machines: tmp_path / str(machines) for machines in (1, 2)}
    for folder in folders.values():
        shutil.copytree(story, folder)
        shutil.rmtree(folder / "results/small/runs")
    # Not below tmp_path: the path of a socket of Slurm ends at 108 characters.
    with tempfile.TemporaryDirectory() as nodes, slurm(nodes, 2):
        controller = through_slurm(folders[2], target, "--config", ON_TWO % 2)
        try:
            assert controller.wait(timeout=900) == 0, (folders[2] / "out.txt").read_text()
        finally:
            controller.kill()
        jobs = subprocess.run(["scontrol", "show", "jobs"], capture_output=True, text=True, check=True).stdout
    assert "NodeList=node[1-2]" in jobs and "TresPerNode=gres:gpu:1" in jobs
    status = read_status(folders[2] / f"logs/small/train_policy/{CANCELLED}.status.json")
    assert (status.state, status.step) == ("finished", 20)
    one = subprocess.run([*snakemake(folders[1], target, "--cores", "2"), "--config", ON_TWO % 1], cwd=folders[1])
    assert one.returncode == 0
    alone, spread = (folder / f"results/small/runs/{CANCELLED}" for folder in folders.values())
    assert (alone / "model.safetensors").read_bytes() == (spread / "model.safetensors").read_bytes()
    assert rows(alone / "dynamics.jsonl") == rows(spread / "dynamics.jsonl")
