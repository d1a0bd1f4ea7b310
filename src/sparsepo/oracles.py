"""An oracle as a task of its own: whatever makes, trains and counts a run of a task does the same for it."""

from sparsepo.config import TaskConfig
from sparsepo.objective.methods import METHODS
from sparsepo.runs import find_run, runs_of

_AS_IT_IS = {"frontier_every": 0, "validate_every": 0, "keep": "last"}
"""Of the training section: an oracle is not measured while it trains."""


def as_task(task: TaskConfig, name: str) -> TaskConfig:
    """The task whose only run is this oracle, with its model, method, seed and training."""
    oracle = task.oracles[name]
    method, params = oracle.method
    given = {key: value for key in ("epochs", "learning_rate") if (value := getattr(oracle, key)) is not None}
    given |= {"max_steps": None} if oracle.epochs is not None else {}
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


def selecting(task: TaskConfig) -> list[str]:
    """The runs that keep the tokens of the highest scores of an oracle of the task."""
    if not task.oracles:
        return []
    by_score = [run.path for run in runs_of(task) if METHODS[run.method].mask(run.hyper) == "selected"]
    return [run for run in by_score if oracle_of(task, run) is not None]
