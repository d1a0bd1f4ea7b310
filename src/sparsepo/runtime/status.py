"""The status file of a job: what it is doing, how far it is and why it ended, for `sparsepo.monitor`.

`logs/<task>/<stage>/<run>.status.json` lies beside the log of the job. It is no output of a rule: Snakemake deletes
outputs before a retry, and nothing is made again because of it.
"""

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from sparsepo.runtime.errors import one_line
from sparsepo.runtime.launch import is_first

WRITE_EVERY = 1.0  # seconds between two writes of a job that runs
MAXRSS_IN_MB = 2**20 if sys.platform == "darwin" else 2**10


@dataclass
class Status:
    """One attempt of a job. `started` and `updated` are seconds of the clock of `host`; None is what is not known."""

    state: str = "running"
    """running, finished, failed, or stopped: by Ctrl-C, or because its Snakemake has ended."""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    phase: str = ""
    """What the job is doing, as in "training" or "responses sampled"; `step` of `steps` is how far that is."""
    step: int | None = None
    steps: int | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """The last numbers of a training, as in its dynamics.jsonl and frontier.jsonl."""
    error: str = ""
    cpu_seconds: float | None = None
    """Of a job that has ended, with the processes that it started."""
    memory_mb: float | None = None
    """The most resident memory of a process of a job that has ended, with what it shares with the job server."""


class _StatusFile:
    """The status of this process, and the file in which the first of several processes keeps it."""

    def __init__(self, path: Path):
        self.path, self.status, self._written = path, Status(), 0.0

    def write(self, now: bool = False) -> None:
        """Replace the file, if due or to be `now`. A status that cannot be written is no reason to end a job."""
        if not now and (not is_first() or time.monotonic() - self._written < WRITE_EVERY):
            return
        self._written, self.status.updated = time.monotonic(), time.time()
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        with suppress(OSError):
            temporary.write_text(json.dumps(asdict(self.status)) + "\n", encoding="utf-8")
            os.replace(temporary, self.path)


_file: _StatusFile | None = None  # None: nobody is told how this process is getting on


def status_path(log: Path) -> Path:
    return log.with_suffix(".status.json")


def start_status(log: Path) -> None:
    """From now on, tell the state of this process beside the log of its job."""
    global _file
    _file = _StatusFile(status_path(log))
    _file.write(now=is_first())


def update_status(
    phase: str, step: int, steps: int, seconds_per_step: float | None = None, seconds_left: float | None = None
) -> None:
    """How far a loop is; written once a second at most."""
    if _file is not None:
        status = _file.status
        status.phase, status.step, status.steps = phase, step, steps
        status.seconds_per_step, status.seconds_left = seconds_per_step, seconds_left
        _file.write()


def update_metrics(metrics: Mapping[str, float]) -> None:
    """Numbers of a training, which replace those of the same name."""
    if _file is not None:
        _file.status.metrics |= metrics
        _file.write()


def end_status(state: str, error: str = "") -> None:
    """How this process ends. Of several, any may say that it has failed: the first may wait for it for ever."""
    if _file is not None and (is_first() or state == "failed"):
        status = _file.status
        status.state, status.error = state, one_line(error, 300)
        status.cpu_seconds = round(sum(os.times()[:4]), 2)
        used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        status.memory_mb = round(max(each.ru_maxrss for each in used) / MAXRSS_IN_MB, 1)
        _file.write(now=True)


def read_status(path: Path) -> Status | None:
    """What a job last said of itself; None where there is no such file, or one of another version."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Status(**{name.name: values[name.name] for name in fields(Status)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
