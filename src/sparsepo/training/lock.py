"""One training at a time in a folder: a job of a cluster may outlive the Snakemake that sent it."""

import fcntl
import os
import socket
import time
from pathlib import Path

from sparsepo.runtime.errors import UserError

PATIENCE = 30.0  # seconds: a process that was killed may take some to go
_HELD: list[int] = []  # descriptors, open for the life of this process


def hold(folder: Path, patience: float = PATIENCE) -> None:
    """Lock a folder for this process until it ends, however it ends; it may be locked again by the same process.

    Raises UserError, naming the other process, if that does not let go within `patience` seconds. A file system that
    knows no locks has none.
    """
    path, deadline = folder / "lock", time.monotonic() + patience
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(descriptor, 200).decode(errors="replace") or "another process"
        except OSError:
            return
        else:
            if os.fstat(descriptor).st_nlink:  # else the other one has deleted it, with its folder
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                _HELD.append(descriptor)
                return
        os.close(descriptor)
        if time.monotonic() >= deadline:
            raise UserError(f"{folder}: {other} is training there; wait for its end, or end it, and run again")
        time.sleep(0.5)
