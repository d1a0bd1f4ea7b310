"""The runs of a task: one per method x point of its grid x seed, and the path that names each."""

import re
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
    found = []
    for method, grid in task.methods.items():
        for values in product(*grid.values()):
            params = tuple(zip(grid, values, strict=True))
            found += [Run(method, params, seed) for seed in task.seeds]
    return found


def find_run(task: TaskConfig, path: str) -> Run:
    """The run with this path, read off it: a large sweep asks for each of its runs many times."""
    method = path.split("/")[0]
    *values, seed = re.fullmatch(_pattern(task, method, "("), path).groups()
    texts = dict(zip(sorted(task.methods[method]), values, strict=True))
    return Run(method, tuple((name, texts[name]) for name in task.methods[method]), int(seed))


def patterns_of(task: TaskConfig) -> list[str]:
    """A regular expression a method, which together match the paths of the runs and no others.

    As a grid is a product, they are as long as the grids are wide, where a list of all paths is as long as the sweep.
    """
    return [_pattern(task, method, "(?:") for method in task.methods]


def _pattern(task: TaskConfig, method: str, group: str) -> str:
    """Of the paths of a method's runs; `group` opens the group of each value."""
    grid = task.methods[method]
    any_of = {name: f"{group}{'|'.join(map(re.escape, values))})" for name, values in grid.items()}
    point = "-".join(f"{name}~{any_of[name]}" for name in sorted(grid))
    return f"{method}/{point}/seed~{group}{'|'.join(map(str, task.seeds))})"
