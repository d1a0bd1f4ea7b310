"""One number for a method's frontier: the reward it gains over SFT, averaged over budgets of KL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsepo.evaluation.statistics import group_means
from sparsepo.report.figures.frontier import Point, upper_hull
from sparsepo.report.run_names import params_text

RESAMPLES = 1000


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
    """The scores of a task, the best first, all up to the same KL (`budget`, nats a response)."""

    budget: float
    methods: Sequence[FrontierScore]


def frontier_scores(scores: Sequence[Mapping[str, Any]], resamples: int = RESAMPLES, seed: int = 0) -> FrontierScores:
    r"""The area under each method's reward-KL hull, above the SFT model's reward, up to a common KL:

        score = 1/K \int_0^K (hull(k) - reward_SFT) dk

    The hull is `upper_hull` of (0, reward_SFT) and the method's settings, each the mean over its seeds of the exact KL
    and the reward; beyond its last corner it is flat. K is the median over the methods of the largest KL that each
    reached, so that one that ran away does not set the scale, nor one that never moved.

    Bounds are the percentile bootstrap over prompts: the same prompts are drawn for all settings and for SFT; K stays.
    A hull rests on the best of noisy points, so chance favours the method with more settings.

    scores: files of scores of all runs, SFT among them. Empty where there is no SFT, no reward or no KL to speak of.
    """
    settings = _settings(scores)
    prompts = sorted(set.intersection(*(set(found) for found, _ in settings.values()))) if settings else []
    start = next((key for key in settings if key[0] == "sft"), None)
    if start is None or len(settings) < 2 or not prompts:
        return FrontierScores(0.0, [])
    keys = [start, *(key for key in settings if key != start)]
    rewards, kls = (np.array([[settings[key][of][prompt] for prompt in prompts] for key in keys]) for of in (0, 1))
    methods: dict[str, list[int]] = {}
    for place, (method, _) in enumerate(keys[1:], 1):
        methods.setdefault(method, []).append(place)
    budget = float(np.median([kls[places].mean(1).max() for places in methods.values()]))
    if budget <= 0:
        return FrontierScores(0.0, [])
    drawn = np.random.default_rng(seed).multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), resamples)
    weights = np.vstack([np.ones(len(prompts)), drawn]) / len(prompts)  # the first row is the data themselves
    means = np.stack([weights @ kls.T, weights @ rewards.T], axis=-1)  # (1 + resamples, settings, 2)
    labels = {score["method"]: score["label"] for score in scores}
    found = []
    for method, places in methods.items():
        areas = [gain(row[[0, *places]], budget) for row in means]
        low, high = np.percentile(areas[1:], [2.5, 97.5]) if len(prompts) > 1 else (np.nan, np.nan)
        found.append(FrontierScore(method, labels[method], len(places), areas[0], float(low), float(high)))
    return FrontierScores(budget, sorted(found, key=lambda row: -row.score))


def gain(points: np.ndarray, budget: float) -> float:
    """Mean height of the hull of (KL, reward) points above the first of them, which is SFT, over KL 0 ... `budget`."""
    corners: list[Point] = upper_hull([(0.0, float(points[0, 1])), *map(tuple, points[1:])])
    xs = np.array([x for x, _ in corners])
    ys = np.array([y for _, y in corners]) - points[0, 1]
    grid = np.unique(np.concatenate([[0.0, budget], xs[(xs > 0) & (xs < budget)]]))
    return float(np.trapezoid(np.interp(grid, xs, ys), grid) / budget)


def _settings(scores: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[dict, dict]]:
    """(method, setting) -> the reward and the exact KL of each prompt, means over its samples and over seeds."""
    seeds: dict[tuple[str, str], list[tuple[dict, dict]]] = {}
    for score in scores:
        if score["reward"]:
            found = tuple(group_means(score[name], score["prompt_ids"]) for name in ("reward", "kl_exact"))
            seeds.setdefault((score["method"], params_text(score["params"])), []).append(found)
    return {key: (_over_seeds([a for a, _ in runs]), _over_seeds([b for _, b in runs])) for key, runs in seeds.items()}


def _over_seeds(runs: Sequence[Mapping[int, float]]) -> dict[int, float]:
    shared = set.intersection(*map(set, runs))
    return {prompt: float(np.mean([run[prompt] for run in runs])) for prompt in runs[0] if prompt in shared}
