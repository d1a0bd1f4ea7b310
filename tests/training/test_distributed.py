"""Several processes: one run whatever their number, whole copies or sharded; killed, resumed, stopped; one writes.

On a CPU with gloo, two processes of one thread each; one process with twice the accumulation is what they must equal.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sparsepo.data.batches import Batch
from sparsepo.runtime.status import read_status
from sparsepo.training.distributed import StepCollator

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
FSDP = ROOT / "configs/accelerate/fsdp.yaml"
# 21 pairs, a batch of 8: the third step of an epoch has 5, an odd number
RUN = {
    "batch_size": 8,
    "micro_batch_size": 4,
    "learning_rate": 1e-3,
    "num_train_epochs": 7,
    "max_steps": 20,
    "checkpoint_every": 5,
}
JOBS = {
    "dpo": {},
    "sparsepo_common": {"gradients": "recompute", "validate_every": 5, "checkpoint_selection": "best"},
    "sparsepo_independent": {"gradients": "forward", "log_every": 2},
    "sft": {},
}
KINDS = {"ddp": [], "fsdp": ["--accelerate", str(FSDP)]}

slow = pytest.mark.slow
pytestmark = pytest.mark.timeout(900)


# --- shares


@dataclass(frozen=True, kw_only=True)
class NumberBatch(Batch):
    numbers: list


class Numbers:
    """Micro-batches of at most two numbers."""

    def split(self, items):
        return [list(items[at : at + 2]) for at in range(0, len(items), 2)]

    def collate(self, items):
        return NumberBatch(num_tokens=0, numbers=items)

    def count(self, items):
        return len(items)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 9])
def test_the_shares_of_a_batch_are_the_batch_and_each_has_as_many_micro_batches(size, ranks):
    shares = [StepCollator(Numbers(), rank, ranks)(list(range(size))) for rank in range(ranks)]
    assert {share["count"] for share in shares} == {size}
    assert len({len(share["micro_batches"]) for share in shares}) == 1
    batches = [batch for share in shares for batch in share["micro_batches"]]
    assert sorted(number for batch in batches if batch.weight == 1 for number in batch.numbers) == list(range(size))
    assert {batch.weight for batch in batches} <= {0, 1}


# --- runs


@pytest.fixture(scope="module")
def made(toy, tmp_path_factory):
    """A folder with the model and the texts that every run starts from."""
    folder = tmp_path_factory.mktemp("distributed")
    toy.model().save_pretrained(folder / "model")
    toy.tokenizer.save_pretrained(folder / "model")
    (folder / "pairs.json").write_text(json.dumps([vars(pair) for pair in toy.pairs(21)]))
    return folder


def job_of(folder, method, **more):
    return {"folder": str(folder / method), "method": method, "config": RUN | JOBS.get(method, {}), **more}


def command(made, kind, jobs, *options):
    """What launches these jobs on two processes, and its environment."""
    path = made / f"{len(list(made.iterdir()))}.json"
    path.write_text(json.dumps(jobs))
    launch = [sys.executable, "-m", "sparsepo.runtime.launch", "--processes", "2", *options, *KINDS[kind]]
    launch += [str(WORKER), str(path)]
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return launch, kept | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "2"}


def launched(made, kind, jobs):
    launch, environment = command(made, kind, jobs)
    return subprocess.run(launch, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(made):
    """The folder of all jobs, run on one process or on two; each way once."""
    done = {}

    def of(kind):
        if kind not in done:
            jobs = [job_of(made / kind, method) for method in JOBS]
            if kind == "one":
                run = runpy.run_path(str(WORKER))["run"]
                for job in jobs:
                    run(job, made)
            else:
                result = launched(made, kind, jobs)
                assert result.returncode == 0, result.stderr[-3000:]
            done[kind] = made / kind
        return done[kind]

    return of


def same_curve(mine, theirs):
    assert [row["step"] for row in mine] == [row["step"] for row in theirs]
    for row, other in zip(mine, theirs, strict=True):
        assert row == pytest.approx(other, rel=0, abs=1e-5)


@slow
@pytest.mark.parametrize("method", JOBS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_curve_of_one_with_twice_the_accumulation(toy, finished, kind, method):
    """In float32; every number of the log, which of two processes are means over the pairs of both."""
    mine, theirs = (toy.rows(finished(which) / method / "work") for which in (kind, "one"))
    assert theirs[-1]["step"] == 20
    same_curve(mine, theirs)


@slow
@pytest.mark.parametrize("method", JOBS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_two_processes_save_is_what_one_saves(finished, kind, method):
    """File by file and name by name, tied weights once; values up to what Adam makes of a gradient that is nothing."""
    mine, theirs = (finished(which) / method / "out" for which in (kind, "one"))
    assert sorted(path.name for path in mine.iterdir()) == sorted(path.name for path in theirs.iterdir())
    assert (mine / "config.json").read_text() == (theirs / "config.json").read_text()
    for path in mine.glob("*.safetensors"):
        weights, others = load_file(path), load_file(theirs / path.name)
        assert weights.keys() == others.keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, others[name], rtol=0, atol=5e-3)


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_process_alone_writes_but_for_each_its_random_state_and_its_shard(finished, kind):
    folder = finished(kind) / "sparsepo_common/work"
    steps = [json.loads(line)["step"] for line in (folder / "dynamics.jsonl").read_text().splitlines()]
    assert len(steps) == 20 + 5  # and validations, which have lines of their own
    own = {"rng_state_0.pth", "rng_state_1.pth"}
    optimiser = {"ddp": {"optimizer.pt"}, "fsdp": {"optimizer_0"}}[kind]
    others = {"complete.json", "model.safetensors", "best.safetensors", "scheduler.pt", "trainer_state.json"}
    others |= {".checksums"}
    assert {path.name for path in (folder / "checkpoint-20").iterdir()} == own | optimiser | others


# --- killed and resumed


def assert_resumed(toy, made, finished, kind, folder, method):
    """A rerun goes on from step 5 and ends as the run that nothing happened to, to the last bit."""
    result = launched(made, kind, [job_of(folder, method)])
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("resuming at step 5 from") == 1
    whole = finished(kind) / method
    assert toy.rows(folder / method / "work") == toy.rows(whole / "work")
    for path in (whole / "out").glob("*.safetensors"):
        weights, others = load_file(path), load_file(folder / method / "out" / path.name)
        assert all(torch.equal(value, others[name]) for name, value in weights.items())


@slow
def test_a_process_that_dies_ends_the_run_and_a_rerun_ends_as_if_it_had_not(toy, made, finished):
    folder, method = made / "died", "sparsepo_common"
    result = launched(made, "ddp", [job_of(folder, method, harm=["die", 7, 1])])
    assert result.returncode == 1
    assert_resumed(toy, made, finished, "ddp", folder, method)


@slow
def test_a_launcher_that_is_killed_leaves_no_process_behind_and_a_rerun_ends_as_if_it_had_not(toy, made, finished):
    folder, method = made / "killed", "sparsepo_independent"
    launch, environment = command(made, "fsdp", [job_of(folder, method, harm=["hang", 7, 0])])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(launch, env=environment, **quiet) as run:
        log = folder / method / "work/dynamics.jsonl"
        while run.poll() is None and not (log.exists() and '"step": 6' in log.read_text()):
            time.sleep(0.2)
        processes = psutil.Process(run.pid).children(recursive=True)
        run.kill()
    assert len(processes) == 2
    gone, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    assert_resumed(toy, made, finished, "fsdp", folder, method)


# --- several machines

SRUN = """\
#!{python}
import os, signal, subprocess, sys, time
options = [word for word in sys.argv[1:] if word.startswith("--")][:5]
assert options[:3] == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1"] and options[4] == "--kill-on-bad-exit=1"
tasks = []
for node, place in enumerate({places}):
    step = {{"SLURM_NODEID": str(node), "SLURM_LAUNCH_NODE_IPADDR": "{address}", "GLOO_SOCKET_IFNAME": "{interface}"}}
    tasks.append(subprocess.Popen([*place, *sys.argv[6:]], env=os.environ | step, stdout=subprocess.PIPE))
while None in (codes := [task.poll() for task in tasks]) and not any(codes):
    time.sleep(0.1)
for task in tasks:
    task.send_signal(signal.SIGTERM)
for task in tasks:
    sys.stdout.buffer.write(task.communicate()[0])
sys.exit(max(map(abs, codes)) if None not in codes else 1)
"""


@pytest.fixture(scope="module")
def namespaces():
    """Two network namespaces that see each other and nothing else; the first has the address 10.77.0.1."""
    names, ip = [f"sparsepo-{os.getpid()}-{node}" for node in (1, 2)], shutil.which("ip")
    if ip is None or os.getuid() != 0 or subprocess.run([ip, "netns", "add", names[0]]).returncode:
        pytest.skip("network namespaces need root and the command ip")
    first, second = ([ip, "netns", "exec", name] for name in names)
    steps = [[ip, "netns", "add", names[1]]]
    steps += [[*first, ip, "link", "add", "near", "type", "veth", "peer", "name", "near", "netns", names[1]]]
    for place, address in ((first, "10.77.0.1/24"), (second, "10.77.0.2/24")):
        steps += [[*place, ip, "address", "add", address, "dev", "near"]]
        steps += [[*place, ip, "link", "set", device, "up"] for device in ("lo", "near")]
    try:
        for step in steps:
            subprocess.run(step, check=True)
        yield first, second
    finally:
        for name in names:
            subprocess.run([ip, "netns", "delete", name])


def on_two_machines(made, tmp_path, jobs, kind="ddp", places=((), ()), address="127.0.0.1", interface="lo"):
    """The jobs through a stand-in for srun that starts each task at its place, as in a job of Slurm."""
    launch, environment = command(made, kind, jobs, "--machines", "2")
    places = [list(place) for place in places]
    srun = SRUN.format(python=sys.executable, places=places, address=address, interface=interface)
    (tmp_path / "srun").write_text(srun)
    (tmp_path / "srun").chmod(0o755)
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "1", "SLURM_NODEID": "9"}
    environment |= {"SPARSEPO_SNAKEMAKE": str(os.getpid()), "OMP_NUM_THREADS": "1"}  # of each machine
    (tmp_path / "run.log").write_text("")
    with open(tmp_path / "run.log", "a") as log:
        result = subprocess.run(launch, env=environment, stdout=log, stderr=subprocess.PIPE, text=True)
    return result, read_status(tmp_path / "run.status.json")


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_machines_give_the_run_of_one_with_two_processes_to_the_last_bit(toy, made, kind, tmp_path, namespaces):
    place = {"kind": kind, "places": namespaces, "address": "10.77.0.1", "interface": "near"}
    jobs = [job_of(tmp_path / where, "sparsepo_common") for where in ("one", "two")]
    assert launched(made, kind, jobs[:1]).returncode == 0
    result, status = on_two_machines(made, tmp_path, jobs[1:], **place)
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = (toy.rows(Path(job["folder"]) / "work") for job in jobs)
    assert one == two
    assert (status.state, status.step) == ("finished", 20)


@slow
def test_a_process_that_dies_on_another_machine_ends_the_run_and_its_log_says_why(made, tmp_path):
    folder = made / "machines-poisoned"
    result, status = on_two_machines(made, tmp_path, [job_of(folder, "dpo", harm=["poison", 2, 1])])
    told = f"the loss is nan at step 3; the batch is in {folder / 'dpo/work/bad_batch.json'}"
    assert (result.returncode, status.state, status.error) == (1, "failed", told)
    assert [line for line in result.stderr.splitlines() if line.startswith("error:")] == [f"error: {told}"]


# --- ended

LAST_EXCHANGE = """
import os, sys, time
from torch import distributed, ones
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError

kept = [ones(1000) for _ in range(300)]

def main():
    first = os.getpid()
    rank = int(os.fork() == 0)
    distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
    works = [distributed.all_reduce(tensor, async_op=True) for tensor in kept]
    works[25].wait()
    if rank == 1:
        while os.getppid() == first:
            time.sleep(0.1)
        os._exit(0)
    print("done")
    if "fails" in sys.argv:
        raise UserError("no")

run_main(main)
"""


@pytest.mark.parametrize(("fails", "code", "said"), [([], 0, ""), (["fails"], 1, "error: no\n")])
def test_one_of_several_processes_that_is_done_ends_well_while_a_thread_still_holds_tensors(
    tmp_path, fails, code, said
):
    """Without care most such ends abort: the thread asks for an interpreter that is on its way out."""
    script = tmp_path / "script.py"
    script.write_text(LAST_EXCHANGE)
    command = [sys.executable, str(script), str(tmp_path / "rendezvous"), *fails]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "LOCAL_RANK": "0", "RANK": "0"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (code, "done\n", said)


# --- stopped


@slow
def test_a_loss_that_is_not_a_number_on_one_process_ends_all_with_one_sentence(made):
    folder = made / "poisoned"
    result = launched(made, "ddp", [job_of(folder, "dpo", harm=["poison", 2, 1])])
    assert result.returncode == 1
    path = folder / "dpo/work/bad_batch.json"
    said = [line for line in result.stderr.splitlines() if "error:" in line or "Traceback" in line]
    assert said == [f"error: the loss is nan at step 3; the batch is in {path}"]
    bad = json.loads(path.read_text())
    assert bad["step"] == 3 and 2 <= len(bad["batch"]) <= 4
