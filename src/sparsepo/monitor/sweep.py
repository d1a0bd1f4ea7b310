"""A sweep at one moment: every task with its runs and other stages, and how long its trainings will still take."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from sparsepo.monitor.job_state import Job, Machine, SnakemakeState, State, SweepFiles
from sparsepo.monitor.plan_file import Plan
from sparsepo.report.run_names import RUN_STAGES
from sparsepo.runtime.status import Status


@dataclass(frozen=True)
class StageCount:
    """How many jobs of a stage are done; `errors`: those of its failed jobs."""

    name: str
    done: int
    total: int
    errors: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """The runs of a task, and its other stages."""

    name: str
    runs: tuple[Job, ...]
    stages: tuple[StageCount, ...]

    def count(self, state: State, method: str = "") -> int:
        """How many runs are in this state, of all methods or of one."""
        return sum(run.state == state and method in ("", run.method) for run in self.runs)


@dataclass(frozen=True)
class Sweep:
    """`age`: seconds since Snakemake started; `seconds_left`: of training, None if unknown."""

    plan: Plan
    snakemake: SnakemakeState
    age: float
    tasks: tuple[Task, ...]
    seconds_left: float | None

    @property
    def is_complete(self) -> bool:
        """Whether all that the plan names is done."""
        trained = all(task.count(State.DONE) == len(task.runs) for task in self.tasks)
        return trained and all(stage.done == stage.total for task in self.tasks for stage in task.stages)

    @property
    def is_over(self) -> bool:
        """Whether nothing will change: nothing trains, and no Snakemake is there to start a job.

        Where Snakemake cannot be seen, when all is done: it may start failed jobs again.
        """
        if any(task.count(State.RUNNING) for task in self.tasks):
            return False
        gone = self.snakemake in (SnakemakeState.ENDED, SnakemakeState.KILLED)
        return gone or (self.snakemake == SnakemakeState.UNKNOWN and self.is_complete)


def read_sweep(results: Path, plan: Plan, machine: Machine) -> Sweep:
    """The state of all jobs of a plan."""
    files = SweepFiles(results, plan, machine)
    tasks = tuple(_task(files, name) for name in plan.tasks)
    return Sweep(plan, files.snakemake, max(0.0, machine.now - plan.started), tasks, _seconds_until_all_end(tasks))


def _task(files: SweepFiles, name: str) -> Task:
    jobs = {
        stage: tuple(files.job(name, stage, item, is_due) for item, is_due in items.items())
        for stage, items in files.plan.tasks[name].items()
    }
    runs = [run for stage in RUN_STAGES for run in jobs.pop(stage, ())]
    stages = []
    for stage, own in jobs.items():
        errors = {job.item: job.error for job in own if job.state == State.FAILED}
        stages.append(StageCount(stage, sum(job.state == State.DONE for job in own), len(own), errors))
    return Task(name, _with_seconds_left(runs), tuple(stages))


def _with_seconds_left(runs: Sequence[Job]) -> tuple[Job, ...]:
    """Of a run that trains, what it says itself; of one that waits, by runs of its method that are done or under way.

    Where there are none, by those of all methods.
    """
    lengths: dict[str, list[float]] = {}
    for run in runs:
        seconds = run_seconds(run.status) if run.state in (State.DONE, State.RUNNING) else None
        if seconds is not None:
            lengths.setdefault(run.method, []).append(seconds)
    every = [seconds for method in lengths.values() for seconds in method]
    return tuple(replace(run, seconds_left=_seconds_left(run, lengths.get(run.method, every))) for run in runs)


def run_seconds(status: Status | None) -> float | None:
    """How long a run takes from its first step to its last, by what it says; None while that cannot be told."""
    if status is None or (status.state != "finished" and status.seconds_left is None):
        return None
    attempt = status.updated - status.started + (status.seconds_left or 0.0)
    return max(attempt, (status.seconds_per_step or 0.0) * (status.steps or 0))  # it may have resumed in the middle


def _seconds_left(run: Job, lengths: Sequence[float]) -> float | None:
    status = run.status
    if run.state in (State.DONE, State.FAILED):
        return 0.0
    if run.state == State.RUNNING and status and status.seconds_left is not None:
        return status.seconds_left
    if not lengths:
        return None
    return mean(lengths) * (1 - status.step / status.steps if status and status.step and status.steps else 1)


def _seconds_until_all_end(tasks: Sequence[Task]) -> float | None:
    """Until the last training ends, if as many run at a time as do now."""
    runs = [run for task in tasks for run in task.runs]
    if any(run.seconds_left is None for run in runs):
        return None
    running = [run.seconds_left for run in runs if run.state == State.RUNNING]
    return makespan(running, [run.seconds_left for run in runs if run.state in (State.QUEUED, State.STOPPED)])


def makespan(running: Sequence[float], waiting: Sequence[float]) -> float:
    """When the last of these jobs ends, with as many workers as jobs run, or one.

    >>> makespan([10, 40], [20, 20])
    50
    """
    workers = list(running) or [0.0]
    heapq.heapify(workers)
    for seconds in waiting:
        heapq.heappush(workers, heapq.heappop(workers) + seconds)
    return max(workers)
