"""The status file of a job, as another process reads it while the job runs and when it has ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsepo.runtime import status
from sparsepo.runtime.status import Status, end_status, read_status, start_status, update_metrics, update_status

HEAD = """
import sys, time
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import Loop, progress
from sparsepo.runtime.status import update_metrics
"""
SOURCE = str(Path(status.__file__).parents[2])


@pytest.fixture
def job(tmp_path):
    """Starts a script as a rule does: a job of the Snakemake that this test is, with its output in a log."""
    started = []

    def start(main, log="train.log", **variables):
        variables = {"SPARSEPO_SNAKEMAKE": str(os.getpid()), "PYTHONPATH": SOURCE} | variables
        environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
        with open(tmp_path / log, "w") as file:
            command = [sys.executable, "-c", f"{HEAD}\ndef main():\n    {main}\nrun_main(main)"]
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def told(tmp_path, when=lambda status: True):
    """The status of the job as soon as it is there and such; it is given half a minute."""
    for _ in range(600):
        found = read_status(tmp_path / "train.status.json")
        if found is not None and when(found):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def ended(tmp_path, process):
    process.wait()
    return told(tmp_path)


def test_a_job_tells_that_it_runs_and_who_it_is_before_it_does_anything(job, tmp_path):
    before = time.time()
    process = job("time.sleep(60)")
    found = told(tmp_path)
    assert (found.state, found.host, found.pid) == ("running", socket.gethostname(), process.pid)
    assert before <= found.started <= found.updated <= time.time()


def test_a_job_tells_how_far_its_loop_is(job, tmp_path):
    job("for _ in progress(range(100), 100, 'responses sampled'): time.sleep(0.2)")
    found = told(tmp_path, lambda status: status.step)
    assert (found.phase, found.steps, found.state) == ("responses sampled", 100, "running")
    assert found.seconds_per_step == pytest.approx(0.2, rel=0.5)
    assert found.seconds_left == pytest.approx(found.seconds_per_step * (100 - found.step), rel=0.01)


@pytest.mark.parametrize(
    ("main", "state", "error"),
    [
        ("pass", "finished", ""),
        ("sys.exit(0)", "finished", ""),
        ("raise UserError('too warm')", "failed", "too warm"),
        ("{}['beta']", "failed", "KeyError: 'beta'"),
        ("raise ValueError('first line\\nsecond line')", "failed", "ValueError: first line"),
        ("raise OSError(28, 'No space left on device', 'rows.jsonl')", "failed", "no space left on the disk"),
        ("sys.exit(2)", "failed", "exit code 2; see its log"),
        ("raise KeyboardInterrupt", "stopped", ""),
    ],
)
def test_a_job_tells_how_it_ended(job, tmp_path, main, state, error):
    found = ended(tmp_path, job(main))
    assert found.state == state and found.error.startswith(error) and bool(found.error) == bool(error)


def test_a_job_tells_its_cpu_time_and_memory_with_those_of_the_processes_that_it_started(job, tmp_path):
    busy = (
        "import time; taken = bytearray(200 << 20); taken[::4096] = bytes(51200)\nwhile time.process_time() < 1: pass"
    )
    found = ended(tmp_path, job(f"import subprocess; subprocess.run([sys.executable, '-c', {busy!r}]); time.sleep(1)"))
    # The system also counts the memory of the process that was forked, here that of the tests.
    assert 1 <= found.cpu_seconds < 2 and 200 < found.memory_mb


def test_a_job_that_is_killed_goes_on_saying_that_it_runs(job, tmp_path):
    process = job("time.sleep(60)")
    told(tmp_path)
    process.send_signal(signal.SIGKILL)
    assert ended(tmp_path, process).state == "running"


def test_a_job_that_ends_with_its_snakemake_is_stopped(job, tmp_path):
    snakemake = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process = job("time.sleep(60)", SPARSEPO_SNAKEMAKE=str(snakemake.pid))
    told(tmp_path)
    snakemake.kill()
    snakemake.wait()
    assert ended(tmp_path, process).state == "stopped"


def test_of_several_processes_the_first_tells_and_any_may_say_that_it_failed(job, tmp_path):
    first = job("time.sleep(60)", RANK="0")
    pid = told(tmp_path).pid
    second = job("Loop('training', 9).advance(3)", RANK="1")
    assert second.wait() == 0 and told(tmp_path).pid == pid == first.pid
    job("Loop('training', 9).advance(3); raise ValueError('nan')", RANK="1").wait()
    found = told(tmp_path)
    assert (found.state, found.error, found.step) == ("failed", "ValueError: nan", 3)


@pytest.mark.parametrize(("log", "snakemake"), [("train.log", None), ("train.txt", "1")])
def test_without_snakemake_or_a_log_there_is_no_status_file(job, tmp_path, log, snakemake):
    assert job("pass", log, SPARSEPO_SNAKEMAKE=snakemake).wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == [log]


# --- what is written when


@pytest.fixture
def here(tmp_path, monkeypatch):
    """This process as a job."""
    monkeypatch.setattr(status, "_file", None)
    start_status(tmp_path / "beta~0.1.log")
    return tmp_path / "beta~0.1.status.json"


def test_a_fast_loop_writes_once_a_second_at_most_and_its_end_at_once(here):
    first = here.read_bytes()
    for step in range(1000):
        update_status("training", step, 1000)
    assert here.read_bytes() == first
    end_status("finished")
    assert read_status(here).step == 999 and read_status(here).state == "finished"


def test_numbers_replace_those_of_the_same_name(here, monkeypatch):
    monkeypatch.setattr(status, "WRITE_EVERY", 0.0)
    update_metrics({"loss": 0.5, "reward": 0.25})
    update_metrics({"loss": 0.125})
    assert read_status(here).metrics == {"loss": 0.125, "reward": 0.25}


def test_a_status_that_cannot_be_written_ends_no_job(here):
    here.unlink()
    here.parent.rmdir()
    update_status("training", 1, 2)
    end_status("finished")


def test_a_reader_never_meets_half_a_status(here, monkeypatch):
    monkeypatch.setattr(status.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    before = read_status(here)
    end_status("failed", "too warm")
    assert read_status(here) == before and before.state == "running"


def test_an_error_is_one_printable_line_and_not_endless(here):
    end_status("failed", f"\x1b[31mred\n{'x' * 5000}")
    error = read_status(here).error
    assert len(error) <= 300 and error.isprintable() and error.startswith("\\x1b[31mred")


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "null", '{"state": "running"}'])
def test_what_is_no_status_file_is_read_as_none(tmp_path, text):
    path = tmp_path / "train.status.json"
    if text is not None:
        path.write_text(text)
    assert read_status(path) is None


def test_a_later_version_may_add_fields(tmp_path):
    path = tmp_path / "train.status.json"
    path.write_text(json.dumps(vars(Status("finished", "a", 1, 2.0, 3.0)) | {"more": 1}))
    assert read_status(path) == Status("finished", "a", 1, 2.0, 3.0)
