"""One number for a method's frontier: the reward it gains over SFT, averaged over budgets of KL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsepo.evaluation.statistics import Interval, group_means
from sparsepo.report.run_names import params_text

_RESAMPLES = 1000
FrontierPoint = tuple[float, float]


@dataclass(frozen=True)
class FrontierScore:
    """A method's score and its 95% bounds (units of the reward); `settings`: how many points its hull had to use."""

    method: str
    label: str
    settings: int
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class FrontierScores:
    """The scores of a task, the best first, all up to the same KL (`budget`, nats a response).

    draws: method -> its score on each of the bootstrap's draws of prompts, which are the same for all methods.
    """

    budget: float
    methods: Sequence[FrontierScore]
    draws: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def difference(self, a: str, b: str) -> Interval:
        """Score of method a - score of b, with the 95% percentile bounds of the paired bootstrap over prompts."""
        scores = {score.method: score.score for score in self.methods}
        differences = np.subtract(self.draws[a], self.draws[b])
        low, high = np.percentile(differences, [2.5, 97.5]) if len(differences) else (np.nan, np.nan)
        return Interval(scores[a] - scores[b], float(low), float(high))


def frontier_scores(scores: Sequence[Mapping[str, Any]], resamples: int = _RESAMPLES, seed: int = 0) -> FrontierScores:
    r"""The area under each method's reward-KL hull, above the SFT model's reward, up to a common KL:

        score = 1/K \int_0^K (hull(k) - reward_SFT) dk

    The hull is `upper_hull` of (0, reward_SFT) and the method's settings, each the mean over its seeds of the exact KL
    and the reward; beyond its last corner it is flat. K is the median over the methods of the largest KL that each
    reached, so that one that ran away does not set the scale, nor one that never moved.

    Bounds are the percentile bootstrap over prompts: the same prompts are drawn for all settings and for SFT; K stays.
    A hull rests on the best of noisy points, so chance favours the method with more settings.

    scores: files of scores of all runs, SFT among them. Empty where there is no SFT, no reward or no KL to speak of.
    """
    settings = _values_by_setting(scores)
    prompts = sorted(set.intersection(*(set(rewards) for rewards, _ in settings.values()))) if settings else []
    sft = next((setting for setting in settings if setting[0] == "sft"), None)
    if sft is None or len(settings) < 2 or not prompts:
        return FrontierScores(0.0, [])
    ordered = [sft, *(setting for setting in settings if setting != sft)]
    rewards, kls = (
        np.array([[settings[setting][quantity][prompt] for prompt in prompts] for setting in ordered])
        for quantity in (0, 1)
    )
    rows: dict[str, list[int]] = {}
    for row, (method, _) in enumerate(ordered[1:], 1):
        rows.setdefault(method, []).append(row)
    budget = float(np.median([kls[own].mean(1).max() for own in rows.values()]))
    if budget <= 0:
        return FrontierScores(0.0, [])
    draws = np.random.default_rng(seed).multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), resamples)
    weights = np.vstack([np.ones(len(prompts)), draws]) / len(prompts)  # the first row is the data themselves
    means = np.stack([weights @ kls.T, weights @ rewards.T], axis=-1)  # (1 + resamples, settings, 2)
    labels = {score["method"]: score["label"] for score in scores}
    result, drawn = [], {}
    for method, own in rows.items():
        areas = [gain(points[[0, *own]], budget) for points in means]
        drawn[method] = areas[1:] if len(prompts) > 1 else []
        low, high = np.percentile(drawn[method], [2.5, 97.5]) if drawn[method] else (np.nan, np.nan)
        result.append(FrontierScore(method, labels[method], len(own), areas[0], float(low), float(high)))
    return FrontierScores(budget, sorted(result, key=lambda score: -score.score), drawn)


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


def gain(points: np.ndarray, budget: float) -> float:
    """Mean height of the hull of (KL, reward) points above the first of them, which is SFT, over KL 0 ... `budget`."""
    corners: list[FrontierPoint] = upper_hull([(0.0, float(points[0, 1])), *map(tuple, points[1:])])
    xs = np.array([x for x, _ in corners])
    ys = np.array([y for _, y in corners]) - points[0, 1]
    grid = np.unique(np.concatenate([[0.0, budget], xs[(xs > 0) & (xs < budget)]]))
    return float(np.trapezoid(np.interp(grid, xs, ys), grid) / budget)


def _values_by_setting(scores: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[dict, dict]]:
    """(method, setting) -> the reward and the exact KL of each prompt, means over its samples and over seeds."""
    seeds: dict[tuple[str, str], list[tuple[dict, dict]]] = {}
    for score in scores:
        if score["reward"]:
            values = tuple(group_means(score[name], score["prompt_ids"]) for name in ("reward", "kl_exact"))
            seeds.setdefault((score["method"], params_text(score["params"])), []).append(values)
    return {key: (_seed_means([a for a, _ in runs]), _seed_means([b for _, b in runs])) for key, runs in seeds.items()}


def _seed_means(runs: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean over the runs, of each prompt that all of them have."""
    shared = set.intersection(*map(set, runs))
    return {prompt: float(np.mean([run[prompt] for run in runs])) for prompt in runs[0] if prompt in shared}
