"""A sweep at one moment: every task with its runs and stages, and how long the trainings will still take."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from sparsepo.monitor.plan_file import Plan
from sparsepo.monitor.run_state import Driver, Here, Part, Place, Run, State, part_of, run_of


@dataclass(frozen=True)
class Task:
    """`lefts`: seconds that each run will still take, in their order; 0 of those that are over, None if unknown."""

    name: str
    runs: tuple[Run, ...]
    parts: tuple[Part, ...]
    lefts: tuple[float | None, ...]

    def count(self, state: State, method: str = "") -> int:
        """How many runs are in this state, of all methods or of one."""
        return sum(run.state == state and run.name.startswith(f"{method}/" if method else "") for run in self.runs)


@dataclass(frozen=True)
class Sweep:
    """`age`: seconds since the start; `left`: seconds of training, None if unknown."""

    plan: Plan
    snakemake: Driver
    age: float
    tasks: tuple[Task, ...]
    left: float | None

    @property
    def whole(self) -> bool:
        """Whether all that the plan speaks of is there."""
        trained = all(task.count(State.DONE) == len(task.runs) for task in self.tasks)
        return trained and all(part.done == part.of for task in self.tasks for part in task.parts)

    @property
    def over(self) -> bool:
        """Whether nothing will change: nothing trains, and Snakemake is not there to begin anything.

        Where that cannot be seen, when all is done; what has failed there may be sent again.
        """
        trains = any(task.count(State.RUNNING) for task in self.tasks)
        gone = self.snakemake in (Driver.ENDED, Driver.GONE)
        return not trains and (gone or (self.snakemake == Driver.UNKNOWN and self.whole))


def look(results: Path, plan: Plan, here: Here) -> Sweep:
    """What the disk tells of the sweep of a plan."""
    place = Place(results, plan, here)
    tasks = tuple(_task(place, name) for name in plan.tasks)
    return Sweep(plan, place.snakemake, max(0.0, here.now - plan.started), tasks, _left_in_all(tasks))


def _task(place: Place, name: str) -> Task:
    stages = place.plan.tasks[name]
    runs = tuple(run_of(place, name, run, due) for run, due in stages.get("train", {}).items())
    parts = tuple(part_of(place, name, stage, items) for stage, items in stages.items() if stage != "train")
    return Task(name, runs, parts, _lefts(place, name, runs))


def _lefts(place: Place, task: str, runs: Sequence[Run]) -> tuple[float | None, ...]:
    """A run goes on at its own pace; one without takes what done runs of its method took, or of all methods.

    Before any is done, it takes what those that run will have taken.
    """
    taken: dict[str, list[float]] = {}
    for run in runs:
        seconds = _seconds(place, task, run.name) if run.state == State.DONE else None
        if seconds is not None:
            taken.setdefault(_method(run), []).append(seconds)
    paced = [run.pace * run.steps for run in runs if run.state == State.RUNNING and run.pace and run.steps]
    every = [seconds for method in taken.values() for seconds in method] or paced
    return tuple(left_of(run, taken.get(_method(run), every), place.here.now) for run in runs)


def left_of(run: Run, taken: Sequence[float], now: float) -> float | None:
    """Seconds that a run will still take; `taken`: what runs like it took in all.

    Since its last row it has got on by one interval of its log at most: else that row would not be its last.
    """
    if run.state in (State.DONE, State.FAILED):
        return 0.0
    if run.state == State.RUNNING and None not in (run.pace, run.step, run.steps, run.told):
        since = min(max(0.0, now - run.told), run.pace * run.gap)
        return max(0.0, run.pace * (run.steps - run.step) - since)
    if not taken:
        return None
    return mean(taken) * (1 - run.step / run.steps if run.step and run.steps else 1)


def _left_in_all(tasks: Sequence[Task]) -> float | None:
    """Until the last training ends, if as many go on at a time as do now, each next one where the first ends."""
    pairs = [(run.state, left) for task in tasks for run, left in zip(task.runs, task.lefts, strict=True)]
    if any(left is None for _, left in pairs):
        return None
    running = [left for state, left in pairs if state == State.RUNNING]
    return makespan(running, [left for state, left in pairs if state in (State.QUEUED, State.STOPPED)])


def makespan(running: Sequence[float], waiting: Sequence[float]) -> float:
    """When the last of these jobs ends, with a place for each that runs, or one.

    >>> makespan([10, 40], [20, 20])
    50
    """
    places = list(running) or [0.0]
    heapq.heapify(places)
    for seconds in waiting:
        heapq.heappush(places, heapq.heappop(places) + seconds)
    return max(places)


def _method(run: Run) -> str:
    return run.name.split("/")[0]


def _seconds(place: Place, task: str, run: str) -> float | None:
    """What Snakemake measured of a training that is done: its last attempt alone."""
    path = place.results.absolute().parent / "logs" / task / "timings" / "train" / f"{run}.tsv"
    try:
        return float(path.read_text().splitlines()[1].split("\t")[0])
    except (OSError, ValueError, IndexError):
        return None
