"""The runs of a task: one per method x point of its grid x seed, and the path that names each."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from sparsepo.config import TaskConfig
from sparsepo.config.grids import parse_value
from sparsepo.methods.registry import METHODS


@dataclass(frozen=True)
class Run:
    """A training run; `params` are grid values as text, as they stand in the path."""

    method: str
    params: tuple[tuple[str, str], ...]
    seed: int

    @property
    def point(self) -> str:
        """`alpha~0.5-beta~0.1`: the parameters sorted by name."""
        return "-".join(f"{name}~{value}" for name, value in sorted(self.params))

    @property
    def path(self) -> str:
        return f"{self.method}/{self.point}/seed~{self.seed}"

    @property
    def hyper(self) -> dict:
        """Parameter -> value, as the losses and masks take it."""
        return {name: parse_value(name, value) for name, value in self.params}

    @property
    def iterations(self) -> int:
        """How many rounds a run of rounds has."""
        return int({**METHODS[self.method].rounds, **self.hyper}["iterations"])

    @property
    def shared(self) -> "Run":
        """The same without the number of rounds: what a longer run has in common with a shorter one."""
        return Run(self.method, _without_rounds(self.method, self.params), self.seed)


def runs_of(task: TaskConfig) -> list[Run]:
    """Every run, in the order of the config."""
    found = []
    for method, grid in task.methods.items():
        for values in product(*grid.values()):
            params = tuple(zip(grid, values, strict=True))
            found += [Run(method, params, seed) for seed in task.seeds]
    return found


def find_run(task: TaskConfig, path: str) -> Run:
    """The run with this path, or what several have `shared`, read off it.

    A large sweep asks for each of its runs many times.
    """
    method = path.split("/")[0]
    grid = task.methods[method]
    found = re.fullmatch(_pattern(task, method, grid, "("), path)
    if found is None:
        grid = dict(_without_rounds(method, grid.items()))
        found = re.fullmatch(_pattern(task, method, grid, "("), path)
    *values, seed = found.groups()
    texts = dict(zip(sorted(grid), values, strict=True))
    return Run(method, tuple((name, texts[name]) for name in grid), int(seed))


def patterns_of(task: TaskConfig) -> list[str]:
    """A regular expression a method, which together match the paths of the runs and no others.

    As a grid is a product, they are as long as the grids are wide, where a list of all paths is as long as the sweep.
    """
    return [_pattern(task, method, grid, "(?:") for method, grid in task.methods.items()]


def patterns_of_rounds(task: TaskConfig) -> list[str]:
    """The same of the runs that are `shared`."""
    grids = {method: grid for method, grid in task.methods.items() if METHODS[method].trainer == "rounds"}
    shared = {method: dict(_without_rounds(method, grid.items())) for method, grid in grids.items()}
    return [_pattern(task, method, grid, "(?:") for method, grid in shared.items()]


def _without_rounds(method: str, params: Iterable[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Without what says how many rounds there are, which no round depends on."""
    return tuple((name, value) for name, value in params if name not in METHODS[method].rounds)


def _pattern(task: TaskConfig, method: str, grid: Mapping[str, list[str]], group: str) -> str:
    """Of the paths of a method's runs with this grid; `group` opens the group of each value."""
    any_of = {name: f"{group}{'|'.join(map(re.escape, values))})" for name, values in grid.items()}
    point = "-".join(f"{name}~{any_of[name]}" for name in sorted(grid))
    return f"{method}/{point}/seed~{group}{'|'.join(map(str, task.seeds))})"


_AS_IT_IS = {"frontier_every": 0, "validate_every": 0, "checkpoint_selection": "last"}
"""Of the training section: an oracle is not measured while it trains."""


def as_task(task: TaskConfig, name: str) -> TaskConfig:
    """The task whose only run is this oracle, with its model, method, seed and training."""
    oracle = task.oracles[name]
    method, params = oracle.method
    given = {key: value for key in ("num_train_epochs", "learning_rate") if (value := getattr(oracle, key)) is not None}
    given |= {"max_steps": None} if oracle.num_train_epochs is not None else {}
    changed = {
        "model": oracle.model or task.model,
        "methods": {method: {key: [value] for key, value in params.items()}},
        "seeds": [oracle.seed],
        "training": task.training.model_copy(update=_AS_IT_IS | given),
        "oracles": {name: oracle},
    }
    return task.model_copy(update=changed)


def oracle_of(task: TaskConfig, run: str) -> str | None:
    """The oracle of the task whose scores a run reads."""
    made = find_run(task, run)
    named = METHODS[made.method].oracle(made.hyper)
    return named if named in task.oracles else None


def oracle_selected_runs(task: TaskConfig) -> list[str]:
    """The runs that keep the tokens of the highest scores of an oracle of the task."""
    if not task.oracles:
        return []
    by_score = [run.path for run in runs_of(task) if METHODS[run.method].mask(run.hyper) == "selected"]
    return [run for run in by_score if oracle_of(task, run) is not None]
