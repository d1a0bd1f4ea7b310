"""Claims about the GPU-slot wrapper, on a machine whose nvidia-smi is a script."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparsepo.runtime import gpu_slots

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
        "PYTHONPATH": str(Path(gpu_slots.__file__).parents[2]),
    }


@pytest.fixture
def start(environment):
    """Start a job under the wrapper that says which GPUs it sees and ends when its stdin does."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with ExitStack() as jobs:

        def start_job(*options, **more):
            command = [sys.executable, "-m", "sparsepo.runtime.gpu_slots", *options, "--", sys.executable, "-c", HOLD]
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


def test_an_id_may_be_a_name_with_slashes_and_counts_once(start):
    mig = "MIG-GPU-8f6f/0/0"
    assert seen(start(CUDA_VISIBLE_DEVICES=f"{mig}, {mig}")) == mig


@pytest.mark.parametrize("chosen", ["", "-1"])
def test_a_user_who_hides_all_gpus_keeps_them_hidden(start, chosen):
    jobs = [start(CUDA_VISIBLE_DEVICES=chosen) for _ in range(2)]
    assert [seen(job) for job in jobs] == [chosen, chosen]


# --- several GPUs for one job


def test_as_many_jobs_as_there_are_gpus_get_distinct_ones_at_once(start):
    ids = [str(number) for number in range(8)]
    jobs = [start(CUDA_VISIBLE_DEVICES=",".join(ids)) for _ in ids]
    assert sorted(seen(job) for job in jobs) == ids


def test_a_job_of_several_gpus_gets_as_many_distinct_ones(start):
    assert seen(start("--count", "2")) == "0,1"
    pairs = [start("--count", "2", CUDA_VISIBLE_DEVICES="2,3,4,5") for _ in range(2)]
    assert sorted(",".join(seen(job) for job in pairs).split(",")) == ["2", "3", "4", "5"]


def test_two_jobs_of_two_on_three_gpus_run_one_after_the_other(start):
    three = {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    first = start("--count", "2", **three)
    assert seen(first) == "0,1"
    second = start("--count", "2", **three)
    assert second.stderr.readline() == "waiting for 2 of the GPUs 0, 1, 2\n"
    assert seen(start(**three)) == "2", "one that waits for two does not keep one"
    first.kill()
    assert seen(second) == "0,1"


def test_jobs_that_want_all_gpus_never_wait_for_each_other_for_ever(start):
    jobs = [start("--count", "2") for _ in range(4)]
    for job in jobs:
        job.stdin.close()  # so each ends as soon as it has had them
    assert [seen(job) for job in jobs] == ["0,1"] * 4


def test_more_gpus_than_there_are_is_told_in_a_sentence(start):
    job = start("--count", "3")
    assert job.wait() == 1
    assert job.stderr.read() == "error: 3 GPUs are asked for, and 2 can be used here: 0, 1\n"


def test_several_gpus_are_not_asked_for_where_there_is_none_or_slurm_gives_them(start):
    assert seen(start("--count", "2", PATH="/nowhere")) == "None"
    assert seen(start("--count", "2", SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="0")) == "0"


# --- who else decides


def test_under_slurm_devices_are_left_to_slurm(start):
    assert seen(start(SLURM_JOB_ID="7")) == "None"
    given = dict(SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="0,1")
    assert seen(start(**given)) == "0,1"


def test_without_gpus_any_number_of_jobs_run(start):
    jobs = [start(PATH="/nowhere") for _ in range(3)]
    assert [seen(job) for job in jobs] == ["None"] * 3


def test_the_exit_code_is_the_commands(environment):
    command = [sys.executable, "-m", "sparsepo.runtime.gpu_slots", "--", sys.executable, "-c", "exit(7)"]
    assert subprocess.run(command, env=environment).returncode == 7


UNCLEAR = [[], ["--"], ["true"], ["--count", "--", "true"], ["--count", "2", "--"]]


@pytest.mark.parametrize("arguments", [*UNCLEAR, *(["--count", count, "--", "true"] for count in ("0", "-1", "two"))])
def test_without_a_command_there_is_one_line_of_usage(environment, arguments):
    command = [sys.executable, "-m", "sparsepo.runtime.gpu_slots", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "usage: python -m sparsepo.runtime.gpu_slots [--count N] -- COMMAND...\n"


def test_a_name_that_another_user_took_in_the_temporary_folder_stalls_no_job(tmp_path):
    wanted = tmp_path / "slots"
    wanted.touch()
    (tmp_path / "slots-1").symlink_to(tmp_path)
    (tmp_path / "slots-2").mkdir()
    (tmp_path / "slots-2").chmod(0o777)
    for _ in range(2):
        assert gpu_slots.own_folder(wanted) == tmp_path / "slots-3"
    assert (tmp_path / "slots-3").stat().st_mode & 0o777 == 0o700
