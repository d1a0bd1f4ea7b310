"""The parameters of methods: type, range and meaning of each. Plain data, without torch."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from sparsepo.methods.method import MASKS, READINGS
from sparsepo.runtime.validation import name_type

Site = Literal["mlp", "attention", "residual", "logits"]
OracleName = name_type(r"[a-z0-9_]{1,64}", "at most 64 small letters, digits and '_'")


class Parameter(NamedTuple):
    """What a parameter may be, as pydantic checks it, and what it means.

    default: of a parameter that a plugin adds; the defaults of others stand in the rows of their methods.
    """

    type: Any
    description: str
    default: Any = None


def number(**limits: float) -> Any:
    """The type of a finite number; limits are those of pydantic: gt, ge, lt, le."""
    return Annotated[float, Field(allow_inf_nan=False, **limits)]


def whole_number(**limits: int) -> Any:
    """The type of a number without a fraction."""
    return Annotated[int, Field(**limits)]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


PARAMETERS = {
    "beta": Parameter(
        number(gt=0), "How close the policy stays to the reference: larger is closer. Without one: scale of the loss."
    ),
    "gamma": Parameter(number(ge=0), "The margin by which the chosen response is to be better."),
    "alpha": Parameter(number(ge=0), "TDPO v2: weight of the KL term. ODPO: weight of the difference of scores."),
    "penalty": Parameter(number(ge=0), "Weight of what the chosen response has lost against the reference."),
    "label_smoothing": Parameter(number(ge=0, lt=0.5), "The probability that a pair is labelled the wrong way round."),
    "rpo_alpha": Parameter(number(ge=0), "Weight of the mean negative log-likelihood of the chosen response."),
    "ld_alpha": Parameter(number(ge=0, le=1), "Weight of tokens beyond the length of the shorter response."),
    "reduction": Parameter(Literal["sum", "mean"], "Sum over the tokens of a response (the paper), or mean (TRL)."),
    "form": Parameter(Literal["paper", "released"], "The loss of the SparsePO paper, or of the authors' code."),
    "mask": Parameter(Literal["none", *MASKS], "Where the weight of a token comes from; none: the published method."),
    "l1_u": Parameter(number(ge=0), "L1 penalty on the mask of the reward; larger is sparser."),
    "l1_d": Parameter(number(ge=0), "L1 penalty on the mask of the KL; larger is sparser."),
    "init": Parameter(
        Literal["ones", "authors"],
        "Start of a learned mask: each weight near 1, or N(0, 0.02) as published.",
    ),
    "normalise": Parameter(
        Literal["none", "mean"],
        "mean: weights are divided by their mean over the response tokens of a step, so that beta keeps its meaning.",
    ),
    "activation_sites": Parameter(
        Annotated[list[Site], BeforeValidator(_as_list), Field(min_length=1)],
        "Activations of the reference that are read, one or several; left out: all of the reading.",
    ),
    "reading": Parameter(
        Literal[tuple(READINGS)],
        "MaPO's mask as the paper describes it, or as the authors' code computes it; left out: as the form is.",
    ),
    "mask_weight_decay": Parameter(number(ge=0), "In place of training.mask_weight_decay, for this method."),
    "learning_rate": Parameter(number(gt=0), "In place of training.learning_rate, for this method."),
    "batch_size": Parameter(whole_number(ge=1), "In place of training.batch_size, for this method: responses a step."),
    "num_train_epochs": Parameter(number(gt=0), "In place of training.num_train_epochs, for this method."),
    "k_chosen": Parameter(number(gt=0, le=1), "The part of the tokens of a chosen response that are trained on."),
    "k_rejected": Parameter(number(gt=0, le=1), "The part of the tokens of a rejected response that are trained on."),
    "oracle": Parameter(OracleName, "The oracle of the task that scores tokens; data: numbers that the pairs bring."),
    "mu": Parameter(number(gt=0), "How strongly weights follow scores: exp(mu s), for rejected responses exp(-mu s)."),
    "clamp_min": Parameter(number(le=0), "The lowest score that weights follow, nats."),
    "clamp_max": Parameter(number(ge=0), "The highest score that weights follow, nats."),
    "attribution_share": Parameter(number(ge=0, le=1), "The part of a weight that is attribution; the rest is prior."),
    "prior_width": Parameter(number(gt=0), "Standard deviation of the prior over positions, in response lengths."),
    "desirable": Parameter(number(ge=0), "Weight of chosen responses."),
    "undesirable": Parameter(number(ge=0), "Weight of rejected responses."),
    "scale": Parameter(number(ge=0), "How strongly beta follows the mean margin of a step."),
    "momentum": Parameter(number(ge=0, lt=1), "Weight of the former value in the running mean of margins."),
    "filtered": Parameter(number(ge=0, lt=1), "The part of the pairs of a step that is left out."),
    "ratio": Parameter(number(ge=0, le=1), "Weight of the reference against the policy of the former round."),
    "iterations": Parameter(whole_number(ge=1, le=100), "Number of rounds."),
    "divergence": Parameter(Literal["kl", "reverse_kl", "js", "tv"], "The divergence from the target."),
    "target_mean": Parameter(number(), "The mean of the feature that the policy is to have."),
}
"""Every parameter of a method that a config may set."""
