"""Which differences between systems are significant, on the same prompts; and the best point of a grid."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
from scipy.stats import permutation_test

from sparsepo.evaluation.statistics import paired, paired_difference
from sparsepo.runtime.errors import UserError

LEVEL = 0.05
PERMUTATIONS = 4999
_BATCH = 500  # sign patterns held at once


@dataclass(frozen=True)
class Difference:
    """Mean of `a` minus `b` over shared prompts, its 95% bounds by paired bootstrap, p before and after correction.

    `prompts` is how many are shared; with fewer than two, bounds and p are nan.
    """

    a: str
    b: str
    prompts: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def is_tested(self) -> bool:
        """Whether there are enough shared prompts for a test."""
        return not math.isnan(self.p)

    @property
    def is_significant(self) -> bool:
        """Whether p is below 0.05 after the correction for the number of pairs."""
        return self.p_holm < LEVEL

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside the bootstrap interval; not corrected."""
        return self.low > 0 or self.high < 0


def pairwise_differences(systems: Mapping[str, Mapping[Hashable, float]]) -> list[Difference]:
    """Every pair of systems that share prompts, in order; Holm's correction is over these pairs.

    systems: name -> prompt -> mean of that prompt.
    """
    pairs = {(a, b): paired(systems[a], systems[b]) for a, b in combinations(systems, 2)}
    pairs = {names: differences for names, differences in pairs.items() if differences}
    raw = [permutation_p(differences, len(pairs)) for differences in pairs.values()]
    return [
        Difference(a, b, len(differences), *vars(paired_difference(systems[a], systems[b])).values(), p, corrected)
        for ((a, b), differences), p, corrected in zip(pairs.items(), raw, holm(raw), strict=True)
    ]


def permutation_p(differences: Sequence[float], tests: int = 1) -> float:
    """Two-sided p of the mean of paired differences: the share of sign flips with a mean at least as far from 0.

    All flips where they are at most `PERMUTATIONS`, else as many random ones. n random flips give no p below
    2 / (n + 1); there are more for a larger number of `tests`, so that the corrected p can fall to half of `LEVEL`. nan
    for fewer than two differences.
    """
    if len(differences) < 2:
        return math.nan
    resamples = max(PERMUTATIONS, math.ceil(4 * tests / LEVEL) - 1)
    sample, settings = np.asarray(differences, dtype=np.float64), {"n_resamples": resamples, "batch": _BATCH, "rng": 0}
    test = permutation_test((sample,), np.mean, permutation_type="samples", vectorized=True, **settings)
    return float(test.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    r"""Holm's step-down correction (1979): $\max_{j \le i} \min(1, (m - j + 1) p_{(j)})$ of the i-th smallest of m.

    A nan stays nan and is not counted in m.
    """
    order = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    corrected, highest = [math.nan] * len(p), 0.0
    for rank, (value, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * value))
        corrected[index] = highest
    return corrected


Measurements = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""The measurements of a run on one split: {variant: {metric: {"values": [...], "groups": [...]}}}."""

GridPoint = TypeVar("GridPoint")


def select_point(
    points: Mapping[GridPoint, Sequence[Measurements]], metric: str, higher_is_better: bool | None
) -> GridPoint:
    """The point with the best mean of `metric`; the first of equal ones.

    points: for each point of a grid the validation measurements of its runs, one a seed. The mean is over all seeds and
    variants (temperatures, suites) that have the metric, each counted once. A single point needs no choice. Raises
    UserError when a point lacks the metric or it is not a number, and for a metric without a better end.
    """
    if len(points) == 1:
        return next(iter(points))
    if higher_is_better is None:
        raise UserError(f"evaluation.select: neither end of '{metric}' is better, so it cannot choose among points")
    means: dict[GridPoint, float] = {}
    for point, runs in points.items():
        measured = [variant[metric]["values"] for run in runs for variant in run.values() if metric in variant]
        means[point] = fmean(fmean(values) for values in measured if values) if any(measured) else math.nan
        if math.isnan(means[point]):
            raise UserError(f"evaluation.select: '{metric}' was not measured on validation data at {point}")
    return (max if higher_is_better else min)(means, key=means.__getitem__)
