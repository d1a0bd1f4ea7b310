"""Numbers about samples: means and paired differences with intervals, and distinct n-grams."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, t

from sparsepo.runtime.errors import UserError

_BATCH = 100  # resamples drawn at once: bounds the memory to 100 indices per group


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean of `values`, resampling whole `groups` (one label a value).

    Samples of one prompt resemble each other, and resampling them one by one would make the interval too narrow: the
    prompt is drawn, as a (sum, count) pair, and the mean is the ratio of the drawn sums. Without groups each value is a
    group. A single group of unequal values says nothing about spread: its bounds are nan. Raises UserError when there
    are no values.
    """
    if len(values) == 0:
        raise UserError("a mean needs at least one value, and there are none (no samples?)")
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    if (numbers == numbers[0]).all():
        return Interval(float(numbers[0]), float(numbers[0]), float(numbers[0]))
    members = (
        np.arange(len(numbers))
        if groups is None
        else pd.factorize(pd.Series(list(groups), dtype=object), use_na_sentinel=False)[0]
    )
    sums, counts = np.bincount(members, weights=numbers), np.bincount(members)
    if len(sums) == 1:
        return Interval(mean, float("nan"), float("nan"))
    settings = {"n_resamples": resamples, "confidence_level": level, "batch": _BATCH, "rng": seed}
    bounds = bootstrap(
        (sums, counts), _ratio, paired=True, vectorized=True, method="percentile", **settings
    ).confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high))


def _ratio(total: np.ndarray, count: np.ndarray, axis: int) -> np.ndarray:
    return total.sum(axis) / count.sum(axis)


def auc_interval(
    labels: Sequence[bool], scores: Sequence[float], groups: Sequence[Hashable], resamples: int = 1000, seed: int = 0
) -> Interval:
    """ROC AUC with which `scores` rank what is labelled True above the rest, ties one half, and its 95% percentile
    bootstrap, which resamples whole `groups` (one label a score).

    The bounds are nan for a single group. Raises UserError unless both labels are there.
    """
    positive, numbers = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if positive.all() or not positive.any():
        raise UserError("an AUC needs items of both kinds, and all are of one")
    members, names = pd.factorize(pd.Series(list(groups), dtype=object))
    order = np.argsort(numbers, kind="stable")
    positive, numbers, members = positive[order], numbers[order], members[order]
    first, last = np.searchsorted(numbers, numbers, "left"), np.searchsorted(numbers, numbers, "right")

    def weighted_auc(counts: np.ndarray) -> np.ndarray:
        """counts: (draws, groups), how often each group was drawn -> (draws,)."""
        weights = counts[:, members].astype(np.float64)
        below = np.cumsum(np.where(positive, 0.0, weights), axis=1)
        below = np.concatenate([np.zeros((len(weights), 1)), below], axis=1)
        won = (below[:, first] + below[:, last]) / 2
        own = np.where(positive, weights, 0.0)
        with np.errstate(invalid="ignore"):  # a draw without one of the two kinds has no AUC
            return (own * won).sum(1) / (own.sum(1) * below[:, -1])

    auc = float(weighted_auc(np.ones((1, len(names))))[0])
    if len(names) == 1:
        return Interval(auc, math.nan, math.nan)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    batches = [weighted_auc(draws[start : start + _BATCH]) for start in range(0, resamples, _BATCH)]
    low, high = np.nanpercentile(np.concatenate(batches), [2.5, 97.5])
    return Interval(auc, float(low), float(high))


def group_means(values: Sequence[float], groups: Sequence[Hashable]) -> dict[Hashable, float]:
    """Label -> mean of its values, in the order in which the labels first appear."""
    members: dict[Hashable, list[float]] = {}
    for value, label in zip(values, groups, strict=True):
        members.setdefault(label, []).append(value)
    return {label: fmean(own) for label, own in members.items()}


def paired(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> list[float]:
    """a - b at each label that both have, in the order of `a`."""
    return [value - b[label] for label, value in a.items() if label in b]


def paired_difference(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> Interval:
    """Mean of a - b over the labels that both have, and its 95% percentile bootstrap, which resamples labels.

    a, b: label -> mean, as from `group_means`. The difficulty of a prompt, common to both, cancels. With one shared
    label the bounds are nan. Raises UserError when no label is shared.
    """
    differences = paired(a, b)
    if len(differences) == 1:
        return Interval(differences[0], math.nan, math.nan)
    return mean_interval(differences)


def student_interval(means: Sequence[float]) -> Interval:
    """Mean of the means of seeds, and its 95% Student-t interval, which assumes a normal distribution; nan for one."""
    mean = fmean(means)
    if len(means) == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(t.ppf(0.975, len(means) - 1)) * stdev(means) / math.sqrt(len(means))
    return Interval(mean, mean - half, mean + half)


def distinct_n(token_lists: Sequence[Sequence[Hashable]], n: int) -> float:
    """Unique n-grams over all n-grams, pooled over the responses (Li et al. 2016); 0.0 without any.

    An n-gram never spans two responses.
    """
    ngrams = [tuple(tokens[start : start + n]) for tokens in token_lists for start in range(len(tokens) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
