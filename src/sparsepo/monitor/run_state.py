"""Where each run of a sweep stands, read off the disk; nothing is locked, written or asked of a cluster.

The rules, in this order; `start` is when Snakemake wrote its plan, and a file is fresh if it is younger:

1. done: this start does not make it; or its run.json is fresh, and weights and dynamics lie there.
2. running: a process of this machine trains in its folder.
3. queued: its log is not fresh, so no job of this start has begun it, whatever an earlier start said. With a checkpoint
   of an earlier start it is called stopped: it will go on from there.
4. stopped: its log says that it ended with its Snakemake or by an interrupt.
5. failed: its log ends in an error, which is the reason. If Snakemake sends it again, that begins the log anew.
6. Its log tells of no end, but nobody works on it: Snakemake has ended, or its jobs would run on this machine, or its
   lock names a process of this machine. Then it is stopped if Snakemake was killed here or has ended a cluster's jobs,
   else failed without a word: killed, or out of memory.
7. running, as far as files tell: process numbers of another machine mean nothing here, so a job that a cluster ended
   without a word is shown as running and silent, with the time since it last wrote, until it is sent again.

Snakemake itself works or is gone by its process, where that is of this machine; where it is not, only its own word that
it has ended is known.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from sparsepo.monitor.log_parser import Log, modified, read_log, read_rows
from sparsepo.monitor.plan_file import WATCHED, Items, Plan

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


GRACE = 15.0  # seconds that a job may take from its log to its first process, and from its last to its results
CLOCKS = 60.0  # seconds that two clocks of one machine may differ by


class State(StrEnum):
    """Of a run."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    STOPPED = "stopped"
    FAILED = "failed"


class Driver(StrEnum):
    """Whether the Snakemake of a plan works; GONE: it was killed."""

    WORKS = "works"
    GONE = "gone"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Run:
    """A training; numbers are those of its last rows. None is what it has not told.

    `pace`: seconds of a step. `told`: when the last row was written; `gap`: its steps since the row before. `silent`:
    seconds since anything was written.
    """

    name: str
    state: State
    reason: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    margin: float | None = None
    accuracy: float | None = None
    reward: float | None = None
    pace: float | None = None
    told: float | None = None
    gap: int = 0
    silent: float = 0.0


@dataclass(frozen=True)
class Part:
    """How far another stage of a task is; `failed`: item -> reason."""

    name: str
    done: int
    of: int
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """What the state of a job is read off: the results, the plan of Snakemake, and the machine that looks."""

    results: Path
    plan: Plan
    here: Here

    @property
    def snakemake(self) -> Driver:
        if self.plan.ended is not None:
            return Driver.ENDED
        if self.plan.host != self.here.host:
            return Driver.UNKNOWN
        born = self.here.born.get(self.plan.process)
        return Driver.WORKS if born is not None and born <= self.plan.started + CLOCKS else Driver.GONE

    def output(self, stage: str, task: str, item: str) -> Path:
        return self.results / WATCHED[stage].output.format(task=task, item=item)

    def log(self, stage: str, task: str, item: str) -> Path:
        return self.results.absolute().parent / "logs" / WATCHED[stage].log.format(task=task, item=item)

    def fresh(self, path: Path) -> bool:
        """Whether a file was written since this start."""
        written = modified(path)
        return written is not None and written >= self.plan.started


def part_of(place: Place, task: str, stage: str, items: Items) -> Part:
    """A stage other than training: what is there, and what failed and was not begun anew."""
    left = [item for item, due in items.items() if due and not place.fresh(place.output(stage, task, item))]
    logs = {item: place.log(stage, task, item) for item in left}
    said = {item: read_log(log).error for item, log in logs.items() if place.fresh(log)}
    return Part(stage, len(items) - len(left), len(items), {item: error for item, error in said.items() if error})


def run_of(place: Place, task: str, name: str, due: bool) -> Run:
    """A training run, by the rules above."""
    record, path = place.output("train", task, name), place.log("train", task, name)
    others = (record.with_name("model.safetensors"), record.with_name("dynamics.jsonl"))
    if not due or (place.fresh(record) and all(other.exists() for other in others)):
        return Run(name, State.DONE)
    folder = record.with_name(FOLDER)
    busy = folder.resolve() in place.here.busy
    begun = busy or place.fresh(path)
    if not begun and not any(folder.glob("checkpoint-*")):
        return Run(name, State.QUEUED)
    log = read_log(path)
    run = _numbers(Run(name, State.RUNNING), folder, path, log, place.here.now)
    if busy:
        return run
    if not begun or log.stopped:
        return replace(run, state=State.STOPPED)
    if log.error:
        return replace(run, state=State.FAILED, reason=log.error)
    return _unattended(place, folder, log, run)


def _unattended(place: Place, folder: Path, log: Log, run: Run) -> Run:
    """Of a run that has begun, tells no end, and has no process here: rules 6 and 7."""
    plan, host, ended = place.plan, place.here.host, place.snakemake == Driver.ENDED
    nobody = ended or (plan.local and plan.host == host) or _lock(folder).endswith(f" on {host}")
    if not nobody or (not ended and run.silent < GRACE):
        return run
    if place.snakemake == Driver.GONE or (ended and not plan.local):
        return replace(run, state=State.STOPPED)
    last = f"; its log ends: {log.last}" if log.last else ""
    return replace(run, state=State.FAILED, reason=f"it ended without a word (killed, or out of memory?){last}")


def _numbers(run: Run, folder: Path, path: Path, log: Log, now: float) -> Run:
    """A run with what its rows say, and its pace since this attempt took its lock.

    A file system that knows no locks leaves that file empty and old: then there is no pace.
    """
    rows, measured = (read_rows(folder / name) for name in ("dynamics.jsonl", "frontier.jsonl"))
    trained = [row for row in rows if "loss" in row]  # the others are of validation
    last: Mapping[str, Any] = trained[-1] if trained else {}
    rewards = [row["reward"] for row in measured if "reward" in row]
    steps = [log.resumed, *(row["step"] for row in rows if "step" in row)]
    step = max(steps) if rows else None
    told, began = modified(folder / "dynamics.jsonl"), modified(folder / "lock") if _lock(folder) else None
    wrote = [at for at in (told, modified(folder / "frontier.jsonl"), modified(path)) if at is not None]
    paced = step is not None and step > log.resumed and told is not None and began is not None and told > began
    return replace(
        run,
        step=step,
        steps=log.steps,
        loss=last.get("loss"),
        margin=last.get("reward_margin"),
        accuracy=last.get("reward_accuracy"),
        reward=rewards[-1] if rewards else None,
        pace=(told - began) / (step - log.resumed) if paced else None,
        told=told,
        gap=max(steps) - max((one for one in steps if one < max(steps)), default=0),
        silent=max(0.0, now - max(wrote)) if wrote else 0.0,
    )


def _lock(folder: Path) -> str:
    """Who trains in a folder, or did last, as `sparsepo.training.checkpoints` writes it."""
    try:
        return (folder / "lock").read_text(errors="replace")
    except OSError:
        return ""
