"""The runs of a task: one per method x point of its grid x seed, and the path that names each."""

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
    """The run with this path."""
    return next(run for run in runs_of(task) if run.path == path)
