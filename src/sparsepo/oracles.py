"""An oracle as a task of its own: whatever makes, trains and counts a run of a task does the same for it."""

from sparsepo.config import TaskConfig

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
