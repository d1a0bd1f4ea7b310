"""The runs of a task: one per method x point of its grid x seed, and the path that names each."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from sparsepo.config import TaskConfig
from sparsepo.grids import parse_value


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


def runs_of(task: TaskConfig) -> list[Run]:
    """Every run, in the order of the config."""
    return [run for method in task.methods for run in _runs_of(task, method, task.seeds)]


def patterns_of(task: TaskConfig) -> list[str]:
    """A regular expression a method, which together match the paths of the runs and no others.

    As a grid is a product, they are as long as the grids are wide, where a list of all paths is as long as the sweep.
    """
    seeds = _any_of(map(str, task.seeds))
    return [
        f"{method}/{'-'.join(f'{name}~{_any_of(grid[name])}' for name in sorted(grid))}/seed~{seeds}"
        for method, grid in task.methods.items()
    ]


def _any_of(texts: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, texts))})"


def find_run(task: TaskConfig, path: str) -> Run:
    """The run with this path."""
    method, _, seed = path.split("/")
    return next(run for run in _runs_of(task, method, [int(seed.removeprefix("seed~"))]) if run.path == path)


def _runs_of(task: TaskConfig, method: str, seeds: Iterable[int]) -> Iterator[Run]:
    grid = task.methods[method]
    for values in product(*grid.values()):
        params = tuple(zip(grid, values, strict=True))
        yield from (Run(method, params, seed) for seed in seeds)
