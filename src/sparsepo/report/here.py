"""What this machine knows of a sweep: the time, which processes live, and which folders they train in."""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

FOLDER = "checkpoint"
"""The name of the folder that a training is told to work in, and that nothing else is told of."""


@dataclass(frozen=True)
class Here:
    """The machine that looks. `born`: process -> seconds of the clock when it began; `busy`: folders of trainings."""

    host: str
    now: float
    born: Mapping[int, float]
    busy: frozenset[Path]


def look_around() -> Here:
    """What lives now."""
    born, busy = {}, set()
    for process in psutil.process_iter(["pid", "create_time", "cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE:
            born[process.pid] = process.info["create_time"]
            busy |= set(_folders(process))
    return Here(socket.gethostname(), time.time(), born, frozenset(busy))


def _folders(process: psutil.Process) -> Iterator[Path]:
    """Folders of trainings among the arguments of a process; the shell that starts a job has them in one long one."""
    arguments = " ".join(process.info["cmdline"] or []).split()
    for name in {word for word in arguments if os.path.basename(word) == FOLDER}:
        with suppress(psutil.Error, OSError):
            yield Path(process.cwd(), name).resolve()
