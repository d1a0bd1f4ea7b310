"""Sections of a config: oracles, models that score the tokens of preference pairs; and who may read which."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from sparsepo.config.base import Epochs, Positive, Probability, Seed, Strict, refuse
from sparsepo.config.grids import Mistake
from sparsepo.config.models import ModelConfig
from sparsepo.methods.parameters import ALLOWED
from sparsepo.methods.registry import METHODS
from sparsepo.runtime.errors import did_you_mean

if TYPE_CHECKING:
    from sparsepo.config import TaskConfig

DATA = "data"
"""What a grid calls the numbers that the user's own pairs bring."""
LONGEST = 64  # letters of a name, which a folder has


class OracleConfig(Strict):
    """A model trained on the training pairs, whose score of a token is log pi_oracle - log pi_base.

    `objective`: dpo, with `beta` (the default of the method if left out), looks at both responses (SePO); sft at the
    chosen ones alone (the reference model of Rho-1). `share`: of the prompts that have pairs, a choice by `seed`.

    It starts from the task's SFT model, which then is the base; or from another `model` of the same tokenizer, usually
    a smaller one, fine-tuned first as the task's `sft` says. It is trained as the task's `training` says, but for
    `num_train_epochs` and `learning_rate` where they are given.
    """

    objective: Literal["dpo", "sft"] = "dpo"
    share: Probability = 1.0
    beta: Positive | None = None
    model: ModelConfig | None = None
    num_train_epochs: Epochs | None = None
    learning_rate: Positive | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _beta_is_read(self) -> "OracleConfig":
        if self.objective == "sft" and self.beta is not None:
            refuse("is read by an oracle of objective dpo only: leave it out", "beta")
        return self

    @property
    def method(self) -> tuple[str, dict[str, str]]:
        """What trains it: a row of the table of methods, and parameters as they stand in a grid."""
        if self.objective == "sft":
            return "rho", {"mask": "uniform"}  # the mean log-loss of the chosen responses
        return "dpo", {} if self.beta is None else {"beta": str(self.beta)}


def oracle_mistakes(task: "TaskConfig") -> Iterator[Mistake]:
    """What is wrong with the oracles of a task, one by one and as its methods name them."""
    for name, oracle in task.oracles.items():
        yield from ((sentence, ("oracles", name, *place)) for sentence, place in _of_one(task, name, oracle))
    read = set()
    for method, grid in task.methods.items():
        for given in _points(grid):
            wanted = METHODS[method].oracle(given)
            read.add(wanted)
            place = ("methods", method, *(("oracle",) if "oracle" in grid else ()))
            yield from ((sentence, place) for sentence in _unfit(task, method, given, wanted))
    for name in task.oracles:
        if name not in read and name != DATA:
            yield "no method of this task reads it: name it in a grid, or leave it out", ("oracles", name)


def _points(grid: Mapping[str, list[str]]) -> Iterator[dict[str, str]]:
    """What a grid says of masks and oracles, each combination once."""
    names = [name for name in ("mask", "oracle") if name in grid]
    return (dict(zip(names, values, strict=True)) for values in product(*(grid[name] for name in names)))


def _of_one(task: "TaskConfig", name: str, oracle: OracleConfig) -> Iterator[Mistake]:
    if not ALLOWED["oracle"].admits(name) or len(name) > LONGEST:
        yield f"the name of an oracle must be {ALLOWED['oracle']}, at most {LONGEST} of them", ()
    if name == DATA:
        yield f"'{DATA}' means the numbers that the pairs of the data bring: give the oracle another name", ()
    model = oracle.model
    if model is not None and model.source == "scratch":
        if task.model.source != "scratch" or model.tokenizer != task.model.tokenizer:
            sentence = "a model from scratch needs a task's model from scratch with the same 'tokenizer' section"
            yield sentence, ("model", "tokenizer")
        if task.sft is None:
            yield "a model from scratch knows nothing: the task needs an 'sft' section", ("model",)
    if oracle.num_train_epochs is not None and task.preferences.source == "executed":
        yield (
            "executed preferences are pairs of the epochs of training.num_train_epochs: leave it out",
            ("num_train_epochs",),
        )
    prompts = task.data.prompts.train
    if prompts is not None and prompts >= task.training.batch_size > prompts * oracle.share:
        size = f"one batch of {task.training.batch_size} (training.batch_size)"
        yield f"{oracle.share:g} of {prompts} prompts gives fewer pairs than {size}", ("share",)


def _unfit(task: "TaskConfig", method: str, given: Mapping[str, Any], wanted: str | None) -> Iterator[str]:
    """Why a method cannot read the oracle that its grid names, or that it takes if none is named."""
    if wanted is None:
        return
    if wanted == DATA:
        if task.preferences.source != "pairs":
            known = f" ({', '.join(task.oracles)})" if task.oracles else ""
            yield (
                f"method '{method}' reads a number for each token: name an oracle of this task{known}, or bring the "
                f"numbers with the pairs (preferences.source pairs)"
            )
    elif wanted not in task.oracles:
        yield f"'{wanted}' is not an oracle of this task; {did_you_mean(wanted, [*task.oracles, DATA])}"
    elif METHODS[method].mask(given) == "excess":
        oracle = task.oracles[wanted]
        if oracle.objective != "sft" or oracle.model is not None:
            yield (
                f"mask 'excess' compares losses with a model fine-tuned from the task's own: oracle '{wanted}' needs "
                "objective: sft and no model of its own"
            )
