"""What a parameter of a method may be. Plain data, without torch."""

import math
import re
from dataclasses import dataclass
from typing import Any

from sparsepo.methods.method import MASKS


@dataclass(frozen=True)
class Allowed:
    """What a parameter may be: one of `choices`, or a number between `low` and `high` (low excluded if `above`, high
    included if `most`).

    `whole`: without a fraction. `subset`: a list of choices. `name`: a name that a section of the config gives to
    something.
    """

    choices: tuple[str, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False
    subset: bool = False
    name: bool = False
    most: bool = False
    whole: bool = False

    @property
    def is_number(self) -> bool:
        return not self.choices and not self.name

    def admits(self, value: Any) -> bool:
        """Whether `value` is one that this parameter may take."""
        if self.subset:
            return isinstance(value, list | tuple) and bool(value) and all(item in self.choices for item in value)
        if self.choices:
            return value in self.choices
        if self.name:
            return isinstance(value, str) and re.fullmatch("[a-z0-9_]+", value) is not None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.whole and value != int(value):
            return False
        high_enough = value > self.low if self.above else value >= self.low
        return high_enough and (value <= self.high if self.most else value < self.high)

    def __str__(self) -> str:
        if self.choices:
            return ("some of " if self.subset else "one of ") + ", ".join(self.choices)
        if self.name:
            return "a name of small letters, digits and _"
        lower = "" if self.low == float("-inf") else f" {'>' if self.above else '>='} {self.low:g}"
        upper = "" if self.high == float("inf") else f" and {'<=' if self.most else '<'} {self.high:g}"
        return f"a {'whole ' * self.whole}number{lower}{upper}"


ALLOWED = {
    "beta": Allowed(low=0, above=True),
    "gamma": Allowed(low=0),
    "alpha": Allowed(low=0),
    "penalty": Allowed(low=0),
    "label_smoothing": Allowed(low=0, high=0.5),
    "reduction": Allowed(choices=("sum", "mean")),
    "form": Allowed(choices=("paper", "released")),
    "mask": Allowed(choices=("none", *MASKS)),
    "l1_u": Allowed(low=0),
    "l1_d": Allowed(low=0),
    "init_sparsity": Allowed(low=0, high=1),
    "activation_sites": Allowed(choices=("mlp", "attention", "residual"), subset=True),
    "normalisation": Allowed(choices=("minmax", "zscore")),
    "mask_weight_decay": Allowed(low=0),
    "learning_rate": Allowed(low=0, above=True),
    "batch_size": Allowed(low=1, whole=True),
    "num_train_epochs": Allowed(low=0, above=True),
    "k_chosen": Allowed(low=0, above=True, high=1, most=True),
    "k_rejected": Allowed(low=0, above=True, high=1, most=True),
    "oracle": Allowed(name=True),
    "desirable": Allowed(low=0),
    "undesirable": Allowed(low=0),
    "scale": Allowed(low=0),
    "momentum": Allowed(low=0, high=1),
    "filtered": Allowed(low=0, high=1),
    "ratio": Allowed(low=0, high=1, most=True),
    "iterations": Allowed(low=1, high=100, most=True, whole=True),
    "divergence": Allowed(choices=("kl", "reverse_kl", "js", "tv")),
    "target_mean": Allowed(),
}
