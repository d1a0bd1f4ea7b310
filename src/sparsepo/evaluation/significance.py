"""Which differences between systems are significant; and the best point of a grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, TypeVar

from scipy.stats import norm

from sparsepo.evaluation.statistics import MIN_PROMPTS, Estimate, SeedSample, SeedTerm, difference_estimate
from sparsepo.runtime.errors import UserError

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Mean of `a` minus `b` over shared prompts, its 95% bounds, p before and after correction.

    `prompts` is how many are shared; p is nan for fewer than `MIN_PROMPTS`, and the bounds are for one. Both count the
    variation between trainings of a side that has several seeds.
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


def pairwise_differences(systems: Mapping[str, SeedSample]) -> list[Difference]:
    """Every pair of systems that share prompts, in order; Holm's correction is over these pairs."""
    pairs = [(a, b) for a, b in combinations(systems, 2) if set(systems[a].prompts) & set(systems[b].prompts)]
    estimates = [difference_estimate(systems[a], systems[b]) for a, b in pairs]
    raw = [estimate.p_value() if estimate.prompts >= MIN_PROMPTS else math.nan for estimate in estimates]
    return [
        Difference(a, b, estimate.prompts, *vars(estimate.interval()).values(), p, corrected)
        for (a, b), estimate, p, corrected in zip(pairs, estimates, raw, holm(raw), strict=True)
    ]


def smallest_difference(prompts: int, seeds: int, pairs: int = 1, seed_deviation: float = 0.0) -> float:
    """The true difference of two methods that a test finds in 80% of cases, in standard deviations of a score over
    prompts. Half of it is that of a share near 50%.

    seed_deviation: standard deviation between the means of trainings, in the same units; of one seed it is not counted.
    pairs: how many are compared; the level is 0.05 / pairs. The scores of two methods at a prompt are taken as
    independent; it is less where the methods agree on which prompts are hard.
    """
    terms = (SeedTerm(seed_deviation**2 / seeds, 0.0, seeds - 1),) * 2 if seeds > 1 else ()
    error = math.sqrt(2 / prompts + sum(term.observed for term in terms))
    expected = Estimate(0.0, prompts, 2 / prompts, prompts - 1, 0.0, terms)
    return expected.interval(1 - LEVEL / pairs).high + float(norm.ppf(0.8)) * error


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
