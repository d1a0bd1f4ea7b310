"""The section `oracles`: what scores the tokens of preference pairs, and which methods may read it."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from sparsepo.config.base import Bool, Epochs, LocatedError, Positive, Probability, Section, Seed
from sparsepo.config.models import ModelConfig
from sparsepo.methods.registry import METHODS
from sparsepo.runtime.errors import did_you_mean

if TYPE_CHECKING:
    from sparsepo.config import TaskConfig

DATA = "data"
"""The value of the parameter `oracle` for numbers that the user's own pairs bring."""
TRAINED = ("dpo", "sft")
"""Objectives of oracles that are models of their own."""


class OracleConfig(Section):
    """What scores the tokens of preference pairs: a model trained on the training pairs, or what needs no training.

    A trained model is trained as the task's `training` says, except for the keys given here. Its score of a token is
    log pi_oracle - log pi_base; the base is the model that it starts from, unless there is a `contrast`.
    """

    objective: Literal["dpo", "sft", "gradient", "planted"] = "dpo"
    """`dpo` trains on both responses (SePO), `sft` on the chosen ones only (the reference model of Rho-1). Without
    training: `gradient`, how strongly the prediction of a response's last token depends on each token, in the SFT model
    of the task (TI-DPO); `planted`, 1 on what is planted and 0 elsewhere, of planted data."""
    contrast: Bool = False
    """Whether the base is a model trained in the same way on the pairs with chosen and rejected swapped (TIS-DPO)."""
    truth: Literal["words", "slots"] = "words"
    """What counts as planted, of objective `planted`."""
    share: Probability = 1.0
    """The part of the prompts with pairs that it is trained on, a choice by `seed`."""
    beta: Positive | None = None
    """The beta of `dpo`; null takes the default of the method."""
    model: ModelConfig | None = None
    """Another model with the same tokenizer, usually a smaller one, fine-tuned first as the task's `sft` says; null
    starts from the SFT model of the task."""
    num_train_epochs: Epochs | None = None
    """How often the pairs are gone through; null trains as long as `training` says."""
    learning_rate: Positive | None = None
    """The highest learning rate; null takes that of `training`."""
    seed: Seed = 0
    """Seed of the choice of prompts and of the training."""

    def _errors(self) -> Iterator[LocatedError]:
        if self.objective == "sft" and self.beta is not None:
            yield "is read by an oracle of objective dpo only: leave it out", ("beta",)
        if self.objective != "planted" and self.truth != "words":
            yield "is read by an oracle of objective planted only: leave it out", ("truth",)
        if not self.is_trained:
            for name, field in type(self).model_fields.items():
                if name not in ("objective", "truth") and getattr(self, name) != field.default:
                    yield f"is not read by objective {self.objective}, which trains nothing: leave it out", (name,)

    @property
    def is_trained(self) -> bool:
        return self.objective in TRAINED

    @property
    def score(self) -> str:
        """What its scores are: `log_ratio`, or the objective of an oracle that is not trained."""
        return "log_ratio" if self.is_trained else self.objective

    @property
    def method(self) -> tuple[str, dict[str, str]]:
        """What trains it: a row of the table of methods, and parameters as they stand in a grid."""
        if self.objective == "sft":
            return "rho", {"mask": "uniform"}  # the mean log-loss of the chosen responses
        return "dpo", {} if self.beta is None else {"beta": str(self.beta)}


def oracle_errors(task: "TaskConfig") -> Iterator[LocatedError]:
    """What is wrong with the oracles of a task, one by one and as its methods name them."""
    for name, oracle in task.oracles.items():
        yield from ((message, ("oracles", name, *keys)) for message, keys in _errors_of(task, name, oracle))
    used = set()
    for method, grid in task.grids:
        for point in _points(grid):
            oracle = METHODS[method].oracle(point)
            used.add(oracle)
            location = ("methods", method, *(("oracle",) if "oracle" in grid else ()))
            yield from ((message, location) for message in _reading_errors(task, method, point, oracle))
    for name in task.oracles:
        if name not in used and name != DATA:
            yield "no method of this task reads it: name it in a grid, or leave it out", ("oracles", name)


def _points(grid: Mapping[str, list[str]]) -> Iterator[dict[str, str]]:
    """Each combination of masks and oracles of a grid, once."""
    names = [name for name in ("mask", "oracle") if name in grid]
    return (dict(zip(names, values, strict=True)) for values in product(*(grid[name] for name in names)))


def _errors_of(task: "TaskConfig", name: str, oracle: OracleConfig) -> Iterator[LocatedError]:
    if name == DATA:
        yield f"'{DATA}' means the numbers that the pairs of the data bring: give the oracle another name", ()
    if oracle.objective == "planted" and task.data.source != "planted":
        yield f"is for data of source planted, not {task.data.source}: write dpo, sft or gradient", ("objective",)
    model = oracle.model
    if model is not None and model.source == "scratch":
        if task.model.source != "scratch" or model.tokenizer != task.model.tokenizer:
            message = "a model from scratch needs a task's model from scratch with the same 'tokenizer' section"
            yield message, ("model", "tokenizer")
        if task.sft is None:
            yield "a model from scratch knows nothing: the task needs an 'sft' section", ("model",)
    if oracle.num_train_epochs is not None and task.preferences.source == "executed":
        message = "executed preferences are pairs of the epochs of training.num_train_epochs: leave it out"
        yield message, ("num_train_epochs",)
    prompts = task.data.prompts.train
    if prompts is not None and prompts >= task.training.batch_size > prompts * oracle.share:
        batch = f"one batch of {task.training.batch_size} (training.batch_size)"
        yield f"{oracle.share:g} of {prompts} prompts gives fewer pairs than {batch}", ("share",)


def _reading_errors(task: "TaskConfig", method: str, point: Mapping[str, Any], name: str | None) -> Iterator[str]:
    """Why a method cannot read the oracle that a point of its grid names, or that it reads if none is named."""
    if name is None:
        return
    if name == DATA:
        if task.preferences.source != "pairs":
            names = f" ({', '.join(task.oracles)})" if task.oracles else ""
            yield (
                f"method '{method}' reads a number for each token: name an oracle of this task{names}, or bring the "
                f"numbers with the pairs (preferences.source pairs)"
            )
    elif name not in task.oracles:
        yield f"'{name}' is not an oracle of this task; {did_you_mean(name, [*task.oracles, DATA])}"
    else:
        yield from _unfit_errors(name, task.oracles[name], METHODS[method].mask(point))


READS_SCORE = {"selected": "log_ratio", "importance": "log_ratio", "attribution": "gradient"}
"""Mask -> the scores that it makes weights of; `given` takes any as they are."""


def _unfit_errors(name: str, oracle: OracleConfig, mask: str) -> Iterator[str]:
    """Why a mask cannot make weights of the scores of this oracle."""
    if mask == "excess" and (oracle.objective != "sft" or oracle.contrast or oracle.model is not None):
        yield (
            f"mask 'excess' compares losses with a model fine-tuned from the task's own: oracle '{name}' needs "
            "objective: sft, no contrast and no model of its own"
        )
    if READS_SCORE.get(mask, oracle.score) != oracle.score:
        wanted = " or ".join(TRAINED) if READS_SCORE[mask] == "log_ratio" else READS_SCORE[mask]
        yield f"mask '{mask}' cannot read oracle '{name}' of objective {oracle.objective}: it needs objective {wanted}"
