"""What a parameter of a method may be. Plain data, without torch."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Allowed:
    """What a parameter may be: one of `choices`, or a number between `low` and `high` (low excluded if `above`)."""

    choices: tuple[str, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False
    subset: bool = False

    def admits(self, value: Any) -> bool:
        """Whether `value` is one that this parameter may take."""
        if self.subset:
            return isinstance(value, list | tuple) and bool(value) and all(item in self.choices for item in value)
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (value > self.low if self.above else value >= self.low) and value < self.high

    def __str__(self) -> str:
        if self.choices:
            return ("some of " if self.subset else "one of ") + ", ".join(self.choices)
        lower = "" if self.low == float("-inf") else f" {'>' if self.above else '>='} {self.low:g}"
        return f"a number{lower}" + ("" if self.high == float("inf") else f" and < {self.high:g}")


LEARNED = ("layers", "last", "feed_forward_layers", "feed_forward_last", "binary_layers", "binary_last")
"""Mask heads that are trained."""

ALLOWED = {
    "beta": Allowed(low=0, above=True),
    "gamma": Allowed(low=0),
    "alpha": Allowed(low=0),
    "penalty": Allowed(low=0),
    "label_smoothing": Allowed(low=0, high=0.5),
    "reduction": Allowed(choices=("sum", "mean")),
    "form": Allowed(choices=("paper", "released")),
    "head": Allowed(choices=(*LEARNED, "random", "uniform")),
    "l1_u": Allowed(low=0),
    "l1_d": Allowed(low=0),
    "initial_zeros": Allowed(low=0, high=1),
    "kinds": Allowed(choices=("mlp", "attention", "residual"), subset=True),
    "normalisation": Allowed(choices=("minmax", "zscore")),
    "mask_weight_decay": Allowed(low=0),
    "divergence": Allowed(choices=("kl", "reverse_kl", "js", "tv")),
    "mean": Allowed(),
}
