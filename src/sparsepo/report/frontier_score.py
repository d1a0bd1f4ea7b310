"""One number for a method's frontier: the reward it gains over SFT, averaged over budgets of KL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sparsepo.evaluation.statistics import (
    HALVES_FACTOR,
    Estimate,
    Interval,
    SeedSample,
    choosing_factor,
    difference_estimate,
    mean_estimate,
    seed_sample,
)
from sparsepo.report.run_names import params_text

FrontierPoint = tuple[float, float]
Runs = dict[str, np.ndarray]
"""Seed -> (2, prompts): the reward and the exact KL of each prompt."""


@dataclass(frozen=True)
class FrontierScore:
    """A method's score and its 95% bounds (units of the reward); `settings`: from how many points it chose."""

    method: str
    label: str
    settings: int
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class FrontierScores:
    """The scores of a task, the best first, all up to the same KL (`budget`, nats a response).

    gains: method -> the gain of each seed at each prompt.
    """

    budget: float
    methods: Sequence[FrontierScore]
    gains: Mapping[str, SeedSample] = field(default_factory=dict)

    def difference(self, a: str, b: str) -> Interval:
        """Score of method a - score of b, on the same prompts, with 95% bounds."""
        return _with_halves(difference_estimate(self.gains[a], self.gains[b])).interval()


def frontier_scores(scores: Sequence[Mapping[str, Any]]) -> FrontierScores:
    r"""The area under each method's reward-KL hull, above the SFT model's reward, up to a common KL:

        score = 1/K \int_0^K (hull(k) - reward_SFT) dk

    The hull is the `upper_hull` of (0, reward_SFT) and the method's settings, so the score is a weighted mean of their
    gains over SFT (`hull_weights`). The weights are chosen on one half of the prompts and the gains measured on the
    other, in both directions; with several seeds the gains of each are weighted as the other seeds choose. So no number
    is both chosen for being high and counted, and a method without gain has a mean score of 0 for any number of
    settings.
    K is the median over the methods of the largest KL that each reached, so that one that ran away does not set the
    scale, nor one that never moved.

    Bounds count prompts, and the variation between trainings where all settings of a method have the same two or more
    seeds. Halves and seeds choose for each other, so that their gains are not independent: `HALVES_FACTOR` and
    `choosing_factor` multiply their variances.

    scores: files of scores of all runs, SFT among them. Empty where there is no SFT, no reward, no KL to speak of or
    one prompt.
    """
    settings = runs_by_setting(scores)
    sft = next((runs for (method, _), runs in settings.items() if method == "sft"), None)
    by_method: dict[str, list[Runs]] = {}
    for (method, _), runs in settings.items():
        if method != "sft":
            by_method.setdefault(method, []).append(runs)
    if sft is None or not by_method or _mean(sft).shape[1] < 2:
        return FrontierScores(0.0, [])
    own_largest = [max(_mean(runs)[1].mean() for runs in own) for own in by_method.values()]
    budget = float(np.median(own_largest))
    if budget <= 0:
        return FrontierScores(0.0, [])
    labels = {score["method"]: score["label"] for score in scores}
    result, gains = [], {}
    for method, own in by_method.items():
        values = cross_fitted_gains(_mean(sft), _by_seed(own), budget)
        sample = SeedSample(tuple(range(values.shape[1])), values, np.ones_like(values))
        gains[method] = replace(sample, seed_factor=choosing_factor(len(values)))
        interval = _with_halves(replace(mean_estimate(gains[method]), skewness=0.0)).interval()
        result.append(FrontierScore(method, labels[method], len(own), *vars(interval).values()))
    return FrontierScores(budget, sorted(result, key=lambda score: -score.score), gains)


def cross_fitted_gains(sft: np.ndarray, settings: np.ndarray, budget: float) -> np.ndarray:
    """(seeds, prompts): the gain over SFT, at the weights that the other half of prompts and the other seeds choose.

    sft: (2, prompts), reward and KL. settings: (settings, seeds, 2, prompts). Of one seed the choice is its own.
    """
    _, seeds, _, prompts = settings.shape
    result = np.zeros((seeds, prompts))
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - half.start, None, 2)
        for seed in range(seeds):
            choosing = np.delete(settings, seed, axis=1) if seeds > 1 else settings
            rewards, kls = choosing[..., other].mean((1, 3)).T
            points = np.column_stack([[0.0, *kls], [sft[0, other].mean(), *rewards]])
            weights = hull_weights(points, budget)
            result[seed, half] = weights[1:] @ (settings[:, seed, 0, half] - sft[0, half])
    return result


def upper_hull(points: Iterable[FrontierPoint]) -> list[FrontierPoint]:
    """Corners of the upper concave envelope, from the leftmost point to the best one.

    The envelope rises to the highest reward and is flat from there on: more KL for no more reward
    is never worth having. Every point lies on or below it. Andrew's monotone chain over the points
    that no point further left equals or beats.
    """
    hull: list[FrontierPoint] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if hull and point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1:
            (x, y), (left, low) = hull[-1], hull[-2]
            if (y - low) * (point[0] - left) > (point[1] - low) * (x - left):
                break  # the last corner lies above the line from the one before it to the point
            hull.pop()
        hull.append(point)
    return hull


def pareto_set(points: Iterable[FrontierPoint]) -> list[FrontierPoint]:
    """The points that no other one equals or beats in both KL and reward, from the least KL to the most."""
    best: list[FrontierPoint] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def hull_weights(points: np.ndarray, budget: float) -> np.ndarray:
    """The weight of each (KL, reward) point in the mean height of the hull over KL 0 ... `budget`. They sum to 1.

    The first point is SFT, whose KL counts as 0.
    """
    places = {}
    for place, (kl, reward) in enumerate(points):
        places.setdefault((float(kl) if place else 0.0, float(reward)), place)
    corners = upper_hull(places)
    xs = np.array([x for x, _ in corners])
    grid = np.unique(np.concatenate([[0.0, budget], xs[(xs > 0) & (xs < budget)]]))
    weights = np.zeros(len(points))
    for corner, own in zip(corners, np.eye(len(corners)), strict=True):
        weights[places[corner]] = np.trapezoid(np.interp(grid, xs, own), grid) / budget
    return weights


def gain(points: np.ndarray, budget: float) -> float:
    """Mean height of the hull of (KL, reward) points above the first of them, which is SFT, over KL 0 ... `budget`."""
    return float(hull_weights(points, budget) @ (points[:, 1] - points[0, 1]))


def _with_halves(estimate: Estimate) -> Estimate:
    return replace(estimate, prompt_variance=HALVES_FACTOR * estimate.prompt_variance)


def runs_by_setting(scores: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Runs]:
    """(method, setting) -> its runs, at the prompts that all runs have, in order."""
    means = {}
    for score in scores:
        if score["reward"]:
            rewards, kls = (_prompt_means(score[name], score["prompt_ids"]) for name in ("reward", "kl_exact"))
            means[score["method"], params_text(score["params"]), str(score["seed"])] = rewards, kls
    shared = sorted(set.intersection(*(set(rewards) for rewards, _ in means.values()))) if means else []
    result: dict[tuple[str, str], Runs] = {}
    for (method, params, seed), pair in means.items():
        if shared:
            result.setdefault((method, params), {})[seed] = np.array(
                [[own[prompt] for prompt in shared] for own in pair]
            )
    return result


def _prompt_means(values: Sequence[float], prompts: Sequence[int]) -> dict[int, float]:
    sample = seed_sample(values, prompts)
    return dict(zip(sample.prompts, (sample.sums / sample.counts)[0], strict=True))


def _mean(runs: Runs) -> np.ndarray:
    return np.mean(list(runs.values()), axis=0)


def _by_seed(settings: Sequence[Runs]) -> np.ndarray:
    """(settings, seeds, 2, prompts): the seeds that all have; where these are fewer than two, the mean over seeds."""
    shared = sorted(set.intersection(*map(set, settings)))
    if len(shared) < 2:
        return np.array([[_mean(runs)] for runs in settings])
    return np.array([[runs[seed] for seed in shared] for runs in settings])
