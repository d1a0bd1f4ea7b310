"""The runs of a task: one for each method, point of its grids and seed; and the path that names each."""

import re
from dataclasses import dataclass
from itertools import product

from sparsepo.config import TaskConfig
from sparsepo.config.grids import parse_value
from sparsepo.methods.registry import METHODS


@dataclass(frozen=True)
class Run:
    """A training run; `params` are the values of its parameters as text, as they stand in its path."""

    method: str
    params: tuple[tuple[str, str], ...]
    seed: int

    @property
    def point(self) -> str:
        """The point of the grid: parameters sorted by name, as in `alpha~0.5-beta~0.1`."""
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
        """Number of rounds, of a method that trains in rounds."""
        return int({**METHODS[self.method].rounds, **self.hyper}["iterations"])

    @property
    def shared(self) -> "Run":
        """This run without its number of rounds, which names what a longer run shares with a shorter one."""
        rounds = METHODS[self.method].rounds
        return Run(self.method, tuple(param for param in self.params if param[0] not in rounds), self.seed)


def runs_of(task: TaskConfig) -> list[Run]:
    return [
        Run(method, tuple(zip(grid, values, strict=True)), seed)
        for method, grid in task.grids
        for values in product(*grid.values())
        for seed in task.seeds
    ]


def find_run(task: TaskConfig, path: str) -> Run:
    """The run with this path, or with the path of what runs of rounds have `shared`.

    It is read off the path, without a list of all runs, as a large sweep looks for each of its runs many times.
    """
    method, point, seed = path.split("/")
    values = dict(re.findall(r"(\w+)~(.+?)(?=-\w+~|$)", point))
    rounds = METHODS[method].rounds
    names = next(grid for grid in task.methods[method] if grid.keys() - rounds == values.keys() - rounds)
    params = tuple((name, values[name]) for name in names if name in values)
    return Run(method, params, int(seed.removeprefix("seed~")))


def run_pattern(task: TaskConfig, method: str, shared: bool = False) -> str:
    """A regular expression for the paths of a method's runs and no others, or of what its runs of rounds have `shared`.

    It is as long as the grids are wide, where a list of all paths would be as long as the sweep.
    """
    any_of = lambda values: f"(?:{'|'.join(re.escape(str(value)) for value in values)})"  # noqa: E731
    left_out = METHODS[method].rounds if shared else ()
    points = [
        "-".join(f"{name}~{any_of(grid[name])}" for name in sorted(grid) if name not in left_out)
        for grid in task.methods[method]
    ]
    return f"{method}/(?:{'|'.join(points)})/seed~{any_of(task.seeds)}"


_UNMEASURED = {"frontier_every": 0, "validate_every": 0, "checkpoint_selection": "last"}
"""Keys of the training section of an oracle, which is not measured while it trains."""


def as_task(task: TaskConfig, name: str) -> TaskConfig:
    """The task whose only run is this oracle, with its model, method, seed and training."""
    oracle = task.oracles[name]
    method, params = oracle.method
    keys = ("num_train_epochs", "learning_rate")
    changes = _UNMEASURED | {key: value for key in keys if (value := getattr(oracle, key)) is not None}
    if oracle.num_train_epochs is not None:
        changes["max_steps"] = None
    sections = {
        "model": oracle.model or task.model,
        "policy": None,
        "methods": {method: [{key: [value] for key, value in params.items()}]},
        "seeds": [oracle.seed],
        "training": task.training.model_copy(update=changes),
        "oracles": {name: oracle},
    }
    return task.model_copy(update=sections)


def oracle_of(task: TaskConfig, run: str) -> str | None:
    """The name of the oracle whose scores a run reads; None if it reads none of the task's."""
    found = find_run(task, run)
    name = METHODS[found.method].oracle(found.hyper)
    return name if name in task.oracles else None


def oracle_selected_runs(task: TaskConfig) -> list[str]:
    """Paths of the runs with mask `selected`, which trains on the tokens that an oracle of the task scores highest."""
    if not task.oracles:
        return []
    selecting = [run.path for run in runs_of(task) if METHODS[run.method].mask(run.hyper) == "selected"]
    return [path for path in selecting if oracle_of(task, path) is not None]
