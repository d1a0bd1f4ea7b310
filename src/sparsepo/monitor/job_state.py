"""The state of each job of a sweep, from the plan of Snakemake, status files and outputs; nothing is written or locked.

The rules, in this order. A file is fresh if it was written since Snakemake wrote its plan:

1. done: this start of Snakemake does not make it.
2. running: its status says so, and its process runs on this machine.
3. Its status is fresh: done, failed or stopped, as it says. If it says running, rule 6.
4. done: its status is not fresh, or there is none, but its output is.
5. Its log is not fresh, so no job of this start has begun it. stopped: an earlier start did not end it, and it will go
   on from its checkpoint; else queued. If its log is fresh, its process is starting: rule 6.
6. It has not told how it ended. Nobody works on it if its process was on this machine, or Snakemake has ended, or was
   killed here together with its jobs: then it is stopped if its Snakemake was killed or has ended jobs of a cluster,
   else failed (killed, or out of memory).
7. running, as far as files tell: the processes of another machine are not seen from here. A job that a cluster ended
   without a word is shown as silent, with the time since it last wrote, until Snakemake sends it again.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

from sparsepo.monitor.plan_file import Plan, log_path, output_path
from sparsepo.runtime.errors import one_line
from sparsepo.runtime.status import Status, read_status, status_path

CLOCK_ERROR = 60.0  # seconds that two clocks of one machine may differ by
NO_REASON = "it ended without an error message (killed, or out of memory?)"


class State(StrEnum):
    """Of a job."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    STOPPED = "stopped"
    FAILED = "failed"


class SnakemakeState(StrEnum):
    """Of the Snakemake that wrote the plan; UNKNOWN: it is on another machine, and has not said that it has ended."""

    RUNNING = "running"
    KILLED = "killed"
    ENDED = "ended"
    UNKNOWN = "unknown"


def creation_time(pid: int) -> float | None:
    """When a process of this machine began, in seconds of the clock; None where there is none of this id."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


@dataclass(frozen=True)
class Machine:
    """The machine that looks, and the time at which it does."""

    host: str = field(default_factory=socket.gethostname)
    now: float = field(default_factory=time.time)
    creation_time: Callable[[int], float | None] = creation_time

    def is_running(self, host: str, pid: int, since: float) -> bool:
        """Whether a process runs here and did at the time `since`; a later one with the same id does not count."""
        created = self.creation_time(pid) if host == self.host else None
        return created is not None and created <= since + CLOCK_ERROR


@dataclass(frozen=True)
class Job:
    """A job, what it last said of itself, and how many seconds ago. `status` may be that of an earlier start.

    `seconds_left`: of a run, 0 if it has ended, None if unknown.
    """

    item: str
    state: State
    status: Status | None = None
    error: str = ""
    silent: float = 0.0
    seconds_left: float | None = None

    @property
    def method(self) -> str:
        return self.item.split("/")[0]


@dataclass(frozen=True)
class SweepFiles:
    """What states are read from: the files of a sweep, the plan of Snakemake, and the machine that looks."""

    results: Path
    plan: Plan
    machine: Machine

    @property
    def snakemake(self) -> SnakemakeState:
        plan = self.plan
        if plan.ended is not None:
            return SnakemakeState.ENDED
        if plan.host != self.machine.host:
            return SnakemakeState.UNKNOWN
        running = self.machine.is_running(plan.host, plan.process, plan.started)
        return SnakemakeState.RUNNING if running else SnakemakeState.KILLED

    def job(self, task: str, stage: str, item: str, is_due: bool) -> Job:
        """The state of a job, by the rules above; `is_due`: whether this start makes it."""
        output = output_path(self.results, stage, task, item)
        log = log_path(self.results, stage, task, item)
        status = read_status(status_path(log))
        if not is_due:
            return Job(item, State.DONE, status)
        silent = 0.0 if status is None else max(0.0, self.machine.now - status.updated)
        if status and status.state == "running" and self.machine.is_running(status.host, status.pid, status.started):
            return Job(item, State.RUNNING, status, silent=silent)
        if status and status.updated >= self.plan.started:
            match status.state:
                case "finished":
                    return Job(item, State.DONE, status)
                case "failed":
                    return Job(item, State.FAILED, status, status.error)
                case "stopped":
                    return Job(item, State.STOPPED, status)
            return self._without_end(Job(item, State.RUNNING, status, silent=silent), status.host, log)
        if self._is_fresh(output):
            return Job(item, State.DONE)
        if not self._is_fresh(log):
            if status and status.state in ("running", "stopped"):
                return Job(item, State.STOPPED, status)
            return Job(item, State.QUEUED)
        silent = max(0.0, self.machine.now - (_modified(log) or self.machine.now))
        return self._without_end(Job(item, State.RUNNING, silent=silent), "", log)

    def _is_fresh(self, path: Path) -> bool:
        modified = _modified(path)
        return modified is not None and modified >= self.plan.started

    def _without_end(self, job: Job, host: str, log: Path) -> Job:
        """Rules 6 and 7: a job on `host` (or one that is starting) that has not told its end, and is not seen here."""
        plan, snakemake = self.plan, self.snakemake
        killed, ended = snakemake == SnakemakeState.KILLED, snakemake == SnakemakeState.ENDED
        if host != self.machine.host and not ended and not (killed and plan.local):
            return job
        if killed or (ended and not plan.local):
            return Job(job.item, State.STOPPED, job.status)
        last = _last_line(log)
        return Job(job.item, State.FAILED, job.status, f"{NO_REASON}; its log ends: {last}" if last else NO_REASON)


def _modified(path: Path) -> float | None:
    """When a file was last written; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _last_line(log: Path) -> str:
    """Of a log; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return one_line(next((line.strip() for line in reversed(lines) if line.strip()), ""), 300)
