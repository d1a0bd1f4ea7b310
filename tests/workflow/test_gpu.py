"""Claims about the GPU-slot wrapper, on a machine whose nvidia-smi is a script."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparsepo import gpu

HOLD = "import os, sys; print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); sys.stdin.read()"


@pytest.fixture
def environment(tmp_path):
    """Two GPUs, 0 and 1, and a lock folder of the test's own."""
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    smi.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    kept.pop("CUDA_VISIBLE_DEVICES", None)
    return kept | {
        "PATH": f"{smi.parent}:/usr/bin:/bin",
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(Path(gpu.__file__).parents[1]),
    }


@pytest.fixture
def start(environment):
    """Start a job under the wrapper that says which GPU it sees and ends when its stdin does."""
    command = [sys.executable, "-m", "sparsepo.gpu", "--", sys.executable, "-c", HOLD]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with ExitStack() as jobs:

        def start_job(**more):
            job = subprocess.Popen(command, env=environment | more, text=True, **pipes)
            jobs.enter_context(job)
            jobs.callback(job.kill)
            return job

        yield start_job


def seen(job):
    return job.stdout.readline().strip()


def test_two_jobs_at_a_time_get_distinct_gpus(start):
    assert sorted(seen(job) for job in (start(), start())) == ["0", "1"]


def test_a_third_job_waits_until_one_ends_and_takes_its_gpu(start):
    first, second = start(), start()
    gpu_of_first, _ = seen(first), seen(second)
    third = start()
    assert third.stderr.readline() == "waiting for one of the GPUs 0, 1\n"
    first.stdin.close()
    assert seen(third) == gpu_of_first


def test_a_killed_job_gives_its_gpu_back(start):
    first, second = start(), start()
    gpu_of_first, _ = seen(first), seen(second)
    first.kill()
    assert seen(start()) == gpu_of_first


def test_gpus_chosen_by_the_user_are_the_only_ones_given(start):
    jobs = [start(CUDA_VISIBLE_DEVICES="3,5") for _ in range(2)]
    assert sorted(seen(job) for job in jobs) == ["3", "5"]


@pytest.mark.parametrize("chosen", ["", "-1"])
def test_a_user_who_hides_all_gpus_keeps_them_hidden(start, chosen):
    jobs = [start(CUDA_VISIBLE_DEVICES=chosen) for _ in range(2)]
    assert [seen(job) for job in jobs] == [chosen, chosen]


def test_under_slurm_devices_are_left_to_slurm(start):
    assert seen(start(SLURM_JOB_ID="7")) == "None"
    given = dict(SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="0,1")
    assert seen(start(**given)) == "0,1"


def test_without_gpus_any_number_of_jobs_run(start):
    jobs = [start(PATH="/nowhere") for _ in range(3)]
    assert [seen(job) for job in jobs] == ["None"] * 3


def test_the_exit_code_is_the_commands(environment):
    command = [sys.executable, "-m", "sparsepo.gpu", "--", sys.executable, "-c", "exit(7)"]
    assert subprocess.run(command, env=environment).returncode == 7


@pytest.mark.parametrize("arguments", [[], ["--"], ["true"]])
def test_without_a_command_there_is_one_line_of_usage(environment, arguments):
    command = [sys.executable, "-m", "sparsepo.gpu", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "usage: python -m sparsepo.gpu -- COMMAND...\n"
