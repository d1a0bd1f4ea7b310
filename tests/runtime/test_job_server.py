"""Jobs that the job server starts do what `python SCRIPT ARGUMENT...` does, sooner; and none outlives what it needs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import sparsepo

SNAKEMAKE = """
import os, sys
from sparsepo.runtime.job_server import start_server
print(start_server().strip(), flush=True)
sys.stdin.read()
"""
JOB = """
import os, signal, sys, time
imported_by = os.getpid()

def main():
    task, *rest = sys.argv[1:]
    if task == "tell":
        print(sys.argv, os.environ.get("COLOUR"), os.getcwd(), sys.stdin.read())
        print("a warning", file=sys.stderr)
    elif task == "processes":
        print(os.getpid(), imported_by)
    elif task == "fail":
        raise ValueError("no good")
    elif task == "exit":
        sys.exit(int(rest[0]))
    elif task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif task == "wait":
        print(os.getpid(), flush=True)
        time.sleep(60)
    elif task == "threads":
        import torch
        print(torch.get_num_threads())

if __name__ == "__main__":
    from sparsepo.runtime.entry_point import run_main
    run_main(main)
"""


@pytest.fixture
def tree(tmp_path):
    """A workflow with a script `job.py`, another that cannot be imported, and one that imports torch."""
    package = tmp_path / "src/sparsepo"
    shutil.copytree(Path(sparsepo.__file__).parent / "runtime", package / "runtime")
    shutil.copy(sparsepo.__file__, package)
    scripts = tmp_path / "workflow_scripts"
    scripts.mkdir()
    for name, head in {"job": "", "broken": "import no_such_module\n", "tensors": "import torch\n"}.items():
        (scripts / f"{name}.py").write_text(head + JOB)
    return tmp_path


@pytest.fixture
def snakemake(tree):
    """A process that has started a job server, as Snakemake does; its `variables` are those of its jobs."""
    python_path = f"PYTHONPATH='{tree}/src' PATH='{Path(sys.executable).parent}':$PATH"
    environment = os.environ | {"SPARSEPO_JOB": f"export {python_path}", "PYTHONPATH": str(tree / "src")}
    command = [sys.executable, "-c", SNAKEMAKE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=tree, **pipes) as process:
        name, _, path = process.stdout.readline().strip().partition("=")
        process.variables = {name: path, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
        yield process
        process.kill()


@pytest.fixture
def start(tree):
    """(variables, *arguments, script="job") -> a process that starts a job."""
    started = []

    def start(variables, *arguments, script="job", **options):
        path = tree / "workflow_scripts" / f"{script}.py" if isinstance(script, str) else script
        command = [sys.executable, "-m", "sparsepo.runtime.start_job", str(path), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables
        started.append(subprocess.Popen(command, env=environment, **{"cwd": tree} | pipes | options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def result(process):
    return *process.communicate(timeout=60), process.returncode


def alone(variables):
    return variables | {"SPARSEPO_JOB_SERVER": ""}


def ends(pid):
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_job_has_the_arguments_environment_folder_and_streams_that_it_was_started_with(tree, snakemake, start):
    (tree / "other").mkdir()
    (tree / "input").write_text("what stdin has")
    told = []
    for variables in (snakemake.variables, alone(snakemake.variables)):
        with open(tree / "input") as file:
            given = variables | {"COLOUR": "blue"}
            told.append(result(start(given, "tell", "a b", "--c", cwd=tree / "other", stdin=file)))
    script = str(tree / "workflow_scripts/job.py")
    assert told[0] == (f"{[script, 'tell', 'a b', '--c']} blue {tree}/other what stdin has\n", "a warning\n", 0)
    assert told[1] == told[0]


def test_a_script_is_imported_once_for_all_its_jobs(snakemake, start):
    lines = [result(start(snakemake.variables, "processes"))[0].split() for _ in range(3)]
    jobs, importers = zip(*lines, strict=True)
    assert len(set(jobs)) == 3 and len(set(importers)) == 1 and not set(jobs) & set(importers)


@pytest.mark.parametrize(("task", "code"), [(["exit", "0"], 0), (["exit", "7"], 7), (["fail"], 1), (["die"], 137)])
def test_its_exit_code_is_that_of_the_job(snakemake, start, task, code):
    _, told, returned = result(start(snakemake.variables, *task))
    assert returned == code and ("ValueError: no good" in told) == (task == ["fail"])


def test_jobs_run_at_the_same_time(snakemake, start):
    first, second = (start(snakemake.variables, "wait") for _ in range(2))
    assert first.stdout.readline() != second.stdout.readline()
    assert result(start(snakemake.variables, "exit", "3"))[2] == 3


def test_a_script_that_cannot_be_imported_tells_why_in_its_own_log(snakemake, start):
    _, told, code = result(start(snakemake.variables, "tell", script="broken"))
    assert code == 1 and "No module named 'no_such_module'" in told


def test_a_script_of_another_workflow_runs_in_a_python_of_its_own(tree, snakemake, start):
    (tree / "elsewhere").mkdir()
    script = shutil.copy(tree / "workflow_scripts/job.py", tree / "elsewhere/job.py")
    result(start(snakemake.variables, "processes"))
    job, importer = result(start(snakemake.variables, "processes", script=Path(script)))[0].split()
    assert job == importer


@pytest.mark.parametrize("threads", ["1", "2"])
def test_torch_has_as_many_threads_as_the_job_was_given(snakemake, start, threads):
    given = snakemake.variables | {"OMP_NUM_THREADS": threads}
    assert result(start(given, "threads", script="tensors"))[:1] == (f"{threads}\n",)


def test_a_job_ends_when_who_asked_for_it_is_killed(snakemake, start):
    process = start(snakemake.variables, "wait")
    job = int(process.stdout.readline())
    process.kill()
    assert ends(job)
    assert result(start(snakemake.variables, "exit", "4"))[2] == 4


def test_server_jobs_and_socket_end_with_snakemake(snakemake, start):
    process = start(snakemake.variables, "wait")
    job = psutil.Process(int(process.stdout.readline()))
    server, socket = job.ppid(), Path(snakemake.variables["SPARSEPO_JOB_SERVER"])
    assert socket.exists()
    snakemake.send_signal(signal.SIGKILL)
    snakemake.wait()
    assert ends(server) and ends(job.pid) and not socket.parent.exists()
    assert "the job server has ended" in result(process)[1] and process.returncode == 1


def test_a_job_ends_when_its_server_is_killed(snakemake, start):
    process = start(snakemake.variables, "wait")
    job = psutil.Process(int(process.stdout.readline()))
    job.parent().kill()
    assert ends(job.pid) and process.wait() == 1


def test_without_its_server_a_job_runs_alone(snakemake, start):
    server = psutil.Process(snakemake.pid).children()[0]
    server.kill()
    assert ends(server.pid)
    assert result(start(snakemake.variables, "exit", "5"))[2] == 5
