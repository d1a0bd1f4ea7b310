"""Numbers about samples: means and differences with intervals that count prompts and seeds, AUCs, distinct n-grams.

docs/statistics.md says what each interval covers, with its simulated coverage.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, variance

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import stdtr
from scipy.stats import chi2, norm

from sparsepo.runtime.errors import UserError

HALVES_FACTOR = 1.5
"""Variance of the mean of two halves that choose for each other what they are measured at, over that of independent
ones: a correlation of 0.5, more than any that was simulated."""
CHOOSING_CORRELATION = 0.15
"""Between the means of two seeds that choose settings for each other: more than most that were simulated."""
MIN_PROMPTS = 10
"""Fewer prompts than these give no test."""
_BATCH = 100  # resamples drawn at once: bounds the memory to 100 weights per score
_SEED_DRAWS = 400  # possible values of the variance between seeds
_KNOWN = 1e9  # degrees of freedom of a variance that is known


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its confidence interval; nan where there is none."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedTerm:
    """What the means of the seeds of one method say about the variance of their mean.

    observed: the variance of these means over their number. noise: the part of it that would be there without any
    variation between trainings, because each seed samples its own responses. degrees: the number of seeds - 1.
    """

    observed: float
    noise: float
    degrees: int


@dataclass(frozen=True)
class Estimate:
    r"""A mean and what is known of its error.

    `prompt_variance` is the variance of the mean that prompts bring, with `prompt_degrees` degrees of freedom. Each
    seed term adds a variance that few seeds tell badly: it may be $\max(0, o (S - 1) / c - n)$ for each value c of
    chi-square with S - 1 degrees, where o is `observed` and n is `noise`. The confidence distribution of the mean is
    the average over c of normal ones with these variances, with that of the prompts treated alike (generalised
    inference, Weerahandi 1993): t of S - 1 degrees where seeds decide, t of the prompts' degrees where they add
    nothing. `skewness`, that of the prompts over the root of their number, is corrected for by Hall's transformation
    (1992).
    """

    mean: float
    prompts: int
    prompt_variance: float
    prompt_degrees: float
    skewness: float = 0.0
    seed_terms: tuple[SeedTerm, ...] = ()

    @property
    def has_spread(self) -> bool:
        return self.prompt_variance > 0 or any(term.observed > 0 for term in self.seed_terms)

    def interval(self, level: float = 0.95) -> Interval:
        """With equal tails; the bounds are nan without spread, which says nothing of how far the mean may be off."""
        if not self.has_spread:
            return Interval(self.mean, math.nan, math.nan)
        tail, variances = (1 - level) / 2, self._variances()
        unit = math.sqrt(variances.mean())

        def excess(value: float, confidence: float) -> float:
            return self._confidence_above(value, variances) - confidence

        low, high = self.mean - unit, self.mean + unit
        while excess(low, 1 - tail) < 0:
            low -= 4 * (self.mean - low)
        while excess(high, tail) > 0:
            high += 4 * (high - self.mean)
        ends = {"xtol": 1e-9 * unit, "rtol": 1e-12}
        return Interval(
            self.mean,
            float(brentq(excess, low, high, args=(1 - tail,), **ends)),
            float(brentq(excess, low, high, args=(tail,), **ends)),
        )

    def p_value(self) -> float:
        """Two-sided p of the hypothesis that the true mean is 0.

        Without spread it is 1 for a mean of 0, else that of the sign test over the prompts.
        """
        if not self.has_spread:
            return 1.0 if self.mean == 0 else 2.0 ** (1 - self.prompts)
        above = self._confidence_above(0.0, self._variances())
        return 2 * min(above, 1 - above)

    def _variances(self) -> np.ndarray:
        """Possible variances of the mean, equally likely."""
        if not self.seed_terms:
            return np.array([self.prompt_variance])
        total = self.prompt_variance / _chi_square_ratios(self.prompt_degrees, len(self.seed_terms))
        for place, term in enumerate(self.seed_terms):
            total += np.maximum(term.observed / _chi_square_ratios(term.degrees, place) - term.noise, 0.0)
        return np.maximum(total, 1e-300)

    def _confidence_above(self, value: float, variances: np.ndarray) -> float:
        """The confidence that the true mean is above `value`."""
        scores = np.clip((self.mean - value) / np.sqrt(variances), -1e6, 1e6)
        skew = self.skewness * np.minimum(self.prompt_variance / variances, 1.0) ** 1.5
        scores = scores + skew * scores**2 / 3 + skew**2 * scores**3 / 27 + skew / 6
        return float(stdtr(_KNOWN if self.seed_terms else self.prompt_degrees, scores).mean())


@cache
def _chi_square_ratios(degrees: float, place: int) -> np.ndarray:
    """Chi-square over its degrees at equally spaced probabilities; their order differs between places."""
    probabilities = (np.arange(_SEED_DRAWS) + 0.5) / _SEED_DRAWS
    return np.random.default_rng(place).permutation(chi2.ppf(probabilities, degrees)) / degrees


def choosing_factor(seeds: int) -> float:
    """The variance of the mean of seeds that choose for each other, over what their own spread gives.

    With a correlation r between any two of S seeds of variance v, that of their mean is v (1 + (S - 1) r) / S, and
    their spread shows v (1 - r).
    """
    return (1 + (seeds - 1) * CHOOSING_CORRELATION) / (1 - CHOOSING_CORRELATION)


@dataclass(frozen=True)
class SeedSample:
    """Scores of one method: `sums` and `counts` (seeds, prompts) of the values of each prompt under each seed.

    A seed that lacks a prompt has a count of 0 there. `seed_factor` multiplies the observed variance of seeds: above
    1 where they are not independent.
    """

    prompts: tuple[Hashable, ...]
    sums: np.ndarray
    counts: np.ndarray
    seed_factor: float = 1.0

    @property
    def cells(self) -> np.ndarray:
        r"""(seeds, prompts) numbers of which each row has the mean over all values of its seed.

        With equal counts they are the means of the prompts; else $m + (n_p / \bar n)(m_p - m)$ for the mean m_p of n_p
        values, so that rows have the spread of a ratio of sums.
        """
        means = self.sums.sum(1, keepdims=True) / self.counts.sum(1, keepdims=True)
        return means + (self.sums - self.counts * means) / self.counts.mean(1, keepdims=True)

    def at(self, prompts: Sequence[Hashable]) -> "SeedSample":
        """The same at some of the prompts, in their order, and without seeds that have none of them."""
        places = {prompt: place for place, prompt in enumerate(self.prompts)}
        columns = [places[prompt] for prompt in prompts]
        sums, counts = self.sums[:, columns], self.counts[:, columns]
        kept = counts.sum(1) > 0
        return SeedSample(tuple(prompts), sums[kept], counts[kept], self.seed_factor)


def seed_sample(
    values: Sequence[float], prompts: Sequence[Hashable], seeds: Sequence[Hashable] | None = None
) -> SeedSample:
    """The sample of `values`, each of the prompt and the seed that stand at its place. Without seeds all are of one.

    Raises UserError when there are no values.
    """
    if len(values) == 0:
        raise UserError("a mean needs at least one value, and there are none (no samples?)")
    if len(prompts) != len(values) or seeds is not None and len(seeds) != len(values):
        raise ValueError(f"{len(values)} values need as many prompts and seeds, not {len(prompts)}")
    columns, names = pd.factorize(pd.Series(list(prompts), dtype=object), use_na_sentinel=False)
    rows = np.zeros(len(values), dtype=int)
    if seeds is not None:
        rows = pd.factorize(pd.Series(list(seeds), dtype=object), use_na_sentinel=False)[0]
    shape = (int(rows.max()) + 1, len(names))
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (rows, columns), np.asarray(values, dtype=np.float64))
    np.add.at(counts, (rows, columns), 1.0)
    return SeedSample(tuple(names), sums, counts)


def mean_estimate(sample: SeedSample) -> Estimate:
    """The mean over seeds of their means. Prompts are the same for every seed, so both are counted (crossed variances).

    Of one seed the error is that of the prompts alone.
    """
    prompt_means = sample.cells.mean(0)
    return replace(_estimate(prompt_means, [sample]), skewness=_skewness(prompt_means))


def difference_estimate(a: SeedSample, b: SeedSample) -> Estimate:
    """Mean of a minus mean of b over the prompts that both have: what is hard for both cancels.

    The seeds of the two are independent trainings. A side of one seed adds no variance between trainings: the
    difference is then of this trained model. Differences of equal methods are symmetric, so there is no correction for
    skewness. Raises UserError when no prompt is shared.
    """
    known = set(b.prompts)
    shared = [prompt for prompt in a.prompts if prompt in known]
    if not shared:
        raise UserError("a difference needs prompts that both methods were measured on, and there are none")
    a, b = a.at(shared), b.at(shared)
    return _estimate(a.cells.mean(0) - b.cells.mean(0), [a, b])


def mean_interval(
    values: Sequence[float],
    prompts: Sequence[Hashable] | None = None,
    seeds: Sequence[Hashable] | None = None,
    *,
    share: bool = False,
    level: float = 0.95,
) -> Interval:
    """Mean and interval of `values`, each of the prompt and the seed that stand at its place.

    Without prompts each value is of its own. One prompt has no bounds, and neither have equal values, unless they are a
    `share`: of values in [0, 1], and of 0 and 1 in any case, it is `share_interval`. Raises UserError without values.
    """
    sample = seed_sample(values, range(len(values)) if prompts is None else prompts, seeds)
    return sample_interval(sample, share=share or set(values) == {0.0, 1.0}, level=level)


def sample_interval(sample: SeedSample, *, share: bool = False, level: float = 0.95) -> Interval:
    """As `mean_interval`, of a sample."""
    estimate = mean_estimate(sample)
    if len(sample.prompts) == 1:
        return Interval(estimate.mean, math.nan, math.nan)
    return share_interval(estimate, level) if share else estimate.interval(level)


def share_interval(estimate: Estimate, level: float = 0.95) -> Interval:
    """Wilson's interval (1927) of a share, for as many independent values of 0 and 1 as would give its variance.

    Of one value of 0 or 1 a prompt it is Wilson's own. Without spread, as where all are 0, each prompt counts once.
    """
    share, z = min(max(estimate.mean, 0.0), 1.0), float(norm.ppf((1 + level) / 2))
    number = float(estimate.prompts)
    if estimate.has_spread and 0 < share < 1:
        within = estimate.prompt_variance * (estimate.prompts - 1) / estimate.prompts
        symmetric = replace(estimate, skewness=0.0, prompt_variance=within, prompt_degrees=_KNOWN).interval(level)
        number = share * (1 - share) / ((symmetric.high - share) / z) ** 2
    centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return Interval(estimate.mean, min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share))


def interval_of_means(means: Sequence[float], errors: Sequence[float | None], level: float = 0.95) -> Interval:
    """The mean over seeds of numbers that have no values of single prompts, such as scores of benchmarks and AUCs.

    errors: their standard errors, which are of the same questions, so more seeds do not make them smaller; None where
    unknown. One number without an error has no bounds, nor have several equal ones.
    """
    known = [error**2 for error in errors if error is not None and not math.isnan(error)]
    terms = (SeedTerm(variance(means) / len(means), 0.0, len(means) - 1),) if len(means) > 1 else ()
    return Estimate(fmean(means), 1, fmean(known) if known else 0.0, _KNOWN, 0.0, terms).interval(level)


def _estimate(prompt_means: np.ndarray, sides: Sequence[SeedSample]) -> Estimate:
    """prompt_means: (prompts,), over seeds, or their difference. sides: the sample of each method."""
    prompts, mean = len(prompt_means), float(prompt_means.mean())
    if prompts == 1:
        return Estimate(mean, 1, 0.0, _KNOWN)
    spread, terms = prompt_means - mean, []
    rounding = 1e-12 * max(np.abs(side.cells).max() for side in sides)
    squares = 0.0 if np.abs(spread).max() <= rounding else float((spread**2).sum())
    for side in sides:
        cells, seeds = side.cells, len(side.sums)
        if seeds > 1:
            rows = cells.mean(1, keepdims=True)
            rest = cells - rows - cells.mean(0) + cells.mean()
            noise = float((rest**2).sum()) / ((seeds - 1) * (prompts - 1) * prompts * seeds)
            observed = 0.0 if np.ptp(rows) <= rounding else side.seed_factor * float(rows.var(ddof=1)) / seeds
            terms.append(SeedTerm(observed, noise, seeds - 1))
    return Estimate(mean, prompts, squares / (prompts - 1) / prompts, prompts - 1, 0.0, tuple(terms))


def _skewness(numbers: np.ndarray) -> float:
    """Skewness over the root of how many there are; 0 for equal ones."""
    spread = numbers - numbers.mean()
    deviation = math.sqrt((spread**2).mean())
    if deviation <= 1e-12 * np.abs(numbers).max():
        return 0.0
    return float(((spread / deviation) ** 3).mean()) / math.sqrt(len(numbers))


def auc_interval(
    labels: Sequence[bool], scores: Sequence[float], groups: Sequence[Hashable], resamples: int = 1000, seed: int = 0
) -> Interval:
    """ROC AUC with which `scores` rank what is labelled True above the rest, ties one half, and its 95% percentile
    bootstrap, which resamples whole `groups` (one label a score).

    The bounds are nan for a single group, and where all resamples are equal. Raises UserError unless both labels are
    there.
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
    return Interval(auc, float(low), float(high)) if low < high else Interval(auc, math.nan, math.nan)


def distinct_n(token_lists: Sequence[Sequence[Hashable]], n: int) -> float:
    """Unique n-grams over all n-grams, pooled over the responses (Li et al. 2016); 0.0 without any.

    An n-gram never spans two responses.
    """
    ngrams = [tuple(tokens[start : start + n]) for tokens in token_lists for start in range(len(tokens) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
