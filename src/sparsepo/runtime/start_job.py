"""Start a script of the workflow: `python -m sparsepo.runtime.start_job SCRIPT ARGUMENT...`.

A job server (see `sparsepo.runtime.job_server`) has imported what the script needs. Where there is none, the command is
`python SCRIPT ARGUMENT...`.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

SERVER = "SPARSEPO_JOB_SERVER"
"""The variable in which the workflow gives the socket of its job server to its jobs; empty: there is none."""


def start_job(command: Sequence[str]) -> NoReturn:
    """End as the command `python SCRIPT ARGUMENT...` does, which the job server runs if there is one."""
    connection = _connect(os.environ.get(SERVER, ""))
    if connection is None or command[0] != "python" or not command[1].endswith(".py"):
        os.execvp(command[0], command)
    request = {"arguments": command[1:], "environment": dict(os.environ), "folder": os.getcwd()}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the job too, whose end is waited for
    socket.send_fds(connection, [b"\n"], [0, 1, 2])
    connection.sendall(json.dumps(request).encode() + b"\n")
    code = connection.recv(1)
    if not code:
        sys.exit("error: the job server has ended, and this job with it, or could not start it")
    sys.exit(code[0])


def _connect(path: str) -> socket.socket | None:
    """A connection to the job server; None where there is none, or none any more."""
    if path:
        with suppress(OSError):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            return connection
    return None


if __name__ == "__main__":
    start_job(["python", *sys.argv[1:]])
