"""The job server: a process that has imported what the jobs of a Snakemake need, each of which is a fork of it.

To import torch and transformers takes longer than most jobs of a small model. The server imports a script when its
first job comes; later jobs of that script begin at once, and run the code that was there then. It runs nothing before
it forks, as the threads of a library do not survive that. `sparsepo.runtime.start_job` asks for a job.
"""

import atexit
import gc
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, NamedTuple

from sparsepo.runtime.entry_point import exit_at_once, exit_with_parent, run_main
from sparsepo.runtime.start_job import SERVER
from sparsepo.runtime.status import end_status, start_status

SCRIPTS = Path(__file__).resolve().parents[3] / "workflow_scripts"
LOG = Path("logs/job_server.log")
"""Its status file lies beside it, with the CPU time of the server and all its jobs; it writes no log."""
COMMAND = 'eval "$SPARSEPO_JOB"; exec python -c "from sparsepo.runtime.job_server import serve; serve()" "$@"'


class _Job(NamedTuple):
    """What `start_job` asks for: arguments of `python`, environment, working directory; stdin, stdout and stderr."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]


def start_server() -> str:
    """Start the job server of this process, which is Snakemake, and with which it ends.

    Returns what to add to the exports of SPARSEPO_JOB; nothing where the system cannot do it, as outside Linux.
    """
    try:
        snakemake = os.pidfd_open(os.getpid())
        listener, folder = socket.socket(socket.AF_UNIX), tempfile.mkdtemp(prefix="sparsepo-jobs-")
        listener.bind(f"{folder}/socket")
    except (AttributeError, OSError):
        return ""
    listener.listen(1024)  # jobs may ask before the server has started
    LOG.parent.mkdir(exist_ok=True)
    files = listener.fileno(), snakemake
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = ["bash", "-c", COMMAND, "job_server", *map(str, files), folder]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=files, env=environment)
    for file in (listener.detach(), snakemake):
        os.close(file)
    return f" {SERVER}={folder}/socket"


def serve() -> None:
    """Be the server until Snakemake ends; in each fork, run its job."""
    listener, snakemake, folder = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.insert(0, str(SCRIPTS))
    job = _accept_jobs(socket.socket(fileno=int(listener)), int(snakemake))
    if job is not None:
        return _run(job)
    shutil.rmtree(folder, ignore_errors=True)
    start_status(LOG)
    end_status("finished")


def _accept_jobs(listener: socket.socket, snakemake: int) -> _Job | None:
    """Fork for every job that is asked for. Returns the job in its fork, and None in the server after Snakemake.

    snakemake: a descriptor of its process, which can be read when it has ended.
    """
    clients: dict[int, socket.socket] = {}
    """Process id of a job that runs -> who asked for it, and waits."""
    with listener, DefaultSelector() as selector:
        selector.register(listener, EVENT_READ)
        selector.register(snakemake, EVENT_READ)
        while True:
            for key, _ in selector.select():
                pid = key.data
                if key.fileobj is listener:
                    client, job = _receive(listener)
                    pid = None if job is None else _fork(job)
                    if pid is None:
                        client.close()
                        continue
                    if not pid:
                        for connection in (client, *clients.values()):
                            connection.close()
                        return job
                    for stream in job.streams:
                        os.close(stream)
                    clients[pid] = client
                    selector.register(client, EVENT_READ, data=pid)
                    selector.register(os.pidfd_open(pid), EVENT_READ, data=pid)
                elif key.fd == snakemake:
                    return None
                elif key.fileobj is clients.get(pid):  # it was killed
                    selector.unregister(key.fileobj)
                    os.kill(pid, signal.SIGKILL)
                elif key.fd == key.fileobj:  # the job has ended
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    with clients.pop(pid) as client, suppress(KeyError, OSError):
                        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                        selector.unregister(client)
                        client.sendall(bytes([code if code >= 0 else 128 - code]))


def _receive(listener: socket.socket) -> tuple[socket.socket, _Job | None]:
    client, _ = listener.accept()
    try:
        _, streams, _, _ = socket.recv_fds(client, 1, 3)
        with client.makefile("rb") as file:
            return client, _Job(**json.loads(file.readline()), streams=streams)
    except (OSError, ValueError):  # it was killed while it asked
        return client, None


def _fork(job: _Job) -> int | None:
    """Import the script of a job, if it is of this workflow, and fork.

    Returns 0 in the fork and its process id in the server; None where the system has no room for another process.
    """
    script = Path(job.arguments[0])
    if script.parent.resolve() == SCRIPTS:
        with suppress(Exception):  # it comes again where the job runs the script, and is told in its log
            importlib.import_module(script.stem)
    gc.freeze()
    with warnings.catch_warnings(), suppress(OSError):
        # Python 3.12 warns of any thread: the one that there may be, of jemalloc, knows forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
    return None


def _run(job: _Job) -> None:
    """What `python SCRIPT ARGUMENT...` does, in this process; which ends with the server."""
    for number, stream in enumerate(job.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(job.environment)
    os.chdir(job.folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    script = Path(job.arguments[0])
    module = sys.modules.get(script.stem)
    if module is None or script.parent.resolve() != SCRIPTS:
        os.execvp("python", ["python", *job.arguments])
    exit_with_parent(os.getppid(), "the job server")
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    sys.argv = job.arguments
    run_main(module.main)
    # The end of an interpreter takes all modules apart, which takes 0.4 s of CPU time.
    atexit._run_exitfuncs()
    exit_at_once(0)
