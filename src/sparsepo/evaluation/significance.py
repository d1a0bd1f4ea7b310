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
    pairs = [pair for pair in combinations(systems, 2) if paired(systems[pair[0]], systems[pair[1]])]
    raw = [permutation_p(paired(systems[a], systems[b]), len(pairs)) for a, b in pairs]
    differences = []
    for (a, b), p, corrected in zip(pairs, raw, holm(raw), strict=True):
        interval = paired_difference(systems[a], systems[b])
        shared = len(paired(systems[a], systems[b]))
        differences.append(Difference(a, b, shared, interval.mean, interval.low, interval.high, p, corrected))
    return differences


def permutation_p(differences: Sequence[float], tests: int = 1) -> float:
    """Two-sided p of the mean of paired differences: the share of sign flips with a mean at least as far from 0.

    All flips where they are at most `PERMUTATIONS`, else as many random ones. n random flips give no p below
    2 / (n + 1); there are more for a larger number of `tests`, so that the corrected p can fall to half of `LEVEL`. nan
    for fewer than two differences.
    """
    if len(differences) < 2:
        return math.nan
    resamples = max(PERMUTATIONS, math.ceil(4 * tests / LEVEL) - 1)
    return float(
        permutation_test(
            (np.asarray(differences, dtype=np.float64),),
            lambda sample, axis: sample.mean(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=_BATCH,
            rng=0,
        ).pvalue
    )


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
    means = {point: _mean(runs, metric) for point, runs in points.items()}
    for point, mean in means.items():
        if math.isnan(mean):
            raise UserError(f"evaluation.select: '{metric}' was not measured on validation data at {point}")
    sign = 1 if higher_is_better else -1
    return max(means, key=lambda point: sign * means[point])


def _mean(runs: Sequence[Measurements], metric: str) -> float:
    """The mean over runs and variants; nan without any value."""
    measurements = [measured[metric] for run in runs for measured in run.values() if metric in measured]
    means = [fmean(measurement["values"]) for measurement in measurements if measurement["values"]]
    return fmean(means) if means else math.nan
