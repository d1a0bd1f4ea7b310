import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo.report.frontier_score import frontier_scores, gain, hull_weights, upper_hull


def _run(method, reward, kl, prompts=None, beta="0.1", seed=0):
    """A file of scores; one sample of each prompt where the prompts are not given."""
    params = {} if method == "sft" else {"beta": beta}
    prompts = list(range(len(reward))) if prompts is None else prompts
    return {"method": method, "label": method.upper(), "params": params, "seed": None if method == "sft" else seed,
            "prompt_ids": prompts, "reward": reward, "kl_exact": kl}  # fmt: skip


def _envelope(points, x):
    """Height at x of the least concave curve over the points that never falls: the best chord, or the best so far."""
    best = max(y for at, y in points if at <= x)
    chords = [
        low + (high - low) * (x - left) / (right - left)
        for left, low in points
        for right, high in points
        if left <= x < right
    ]
    return max([best, *chords])


def _area(points, budget):
    """Mean height of the envelope above the first point, over 0 ... budget; it bends nowhere but at points."""
    xs = sorted({0.0, budget, *(x for x, _ in points if 0 < x < budget)})
    heights = [_envelope(points, x) - points[0][1] for x in xs]
    pieces = zip(xs, xs[1:], heights, heights[1:], strict=False)
    return sum((right - left) * (low + high) / 2 for left, right, low, high in pieces) / budget


# --- the area under one hull


@pytest.mark.parametrize(
    ("points", "budget", "area"),
    [
        # up to (2, 3), and flat from there on: the second setting pays more for less
        ([(0, 1), (2, 3), (4, 2)], 4, (2 + 4) / 4),
        # the line to (4, 4) passes (2, 2), where the budget ends
        ([(0, 0), (4, 4)], 2, 2 / 2),
        # (1, 0.5) lies below the line to (2, 2)
        ([(0, 0), (1, 0.5), (2, 2)], 2, 2 / 2),
        # (1, 3) lies above it
        ([(0, 0), (1, 3), (2, 4)], 2, (1.5 + 3.5) / 2),
        # flat after the last corner, for three times the way to it
        ([(0, 5), (1, 7)], 4, (1 + 3 * 2) / 4),
        # a setting that moved nowhere and is better counts from the start
        ([(0, 1), (0, 2)], 3, 1),
        # nothing above SFT
        ([(0, 1), (2, 0.5), (3, 1)], 2, 0),
    ],
)
def test_the_gain_of_a_hull_is_its_area_over_the_budget(points, budget, area):
    assert gain(np.array(points, dtype=float), budget) == pytest.approx(area, abs=1e-12)


eighths = st.integers(-80, 80).map(lambda value: value / 8)
kls = st.integers(0, 80).map(lambda value: value / 8)
clouds = st.lists(st.tuples(kls, eighths), min_size=1, max_size=8)
budgets = st.integers(1, 100).map(lambda value: value / 8)


@given(eighths, clouds, budgets)
def test_the_gain_is_the_area_under_the_best_chords(start, cloud, budget):
    points = [(0.0, start), *cloud]
    assert gain(np.array(points), budget) == pytest.approx(_area(points, budget), abs=1e-9)


@given(eighths, clouds, st.tuples(kls, eighths), budgets)
def test_one_more_setting_never_lowers_a_method(start, cloud, more, budget):
    points = [(0.0, start), *cloud]
    assert gain(np.array([*points, more]), budget) >= gain(np.array(points), budget) - 1e-9


# --- scores of a task


def test_the_weights_of_a_hull_are_those_of_its_area():
    """Up to (2, 3) in a straight line, then flat to 4: (2, 3) counts 1/4 + 1/2, SFT 1/4; the other two lie below."""
    points = np.array([(0, 1), (2, 3), (4, 2), (1, 1.5)], dtype=float)
    assert hull_weights(points, 4).tolist() == [0.25, 0.75, 0.0, 0.0]


def test_a_small_case_is_as_by_hand():
    """Prompts 2 and 3 are not everywhere. Each prompt is a half: what it gains is weighted as the other chooses."""
    scores = [
        _run("sft", [0.0, 2.0, 3.0, 100.0], [0.0] * 4, [0, 0, 1, 2]),  # 1 and 3
        _run("ipo", [3.0, 2.0], [1.0, 1.0]),  # gains 2 and -1
        _run("dpo", [2.0, 4.0, 8.0, 50.0], [1.0, 2.0, 4.0, 90.0], [0, 1, 1, 3]),  # rewards 2 and 6, KL 1 and 3
    ]
    found = frontier_scores(scores)
    assert found.budget == 1.5  # the median of 1 and 2
    assert [(row.method, row.label, row.settings) for row in found.methods] == [("dpo", "DPO", 1), ("ipo", "IPO", 1)]
    # DPO: prompt 1 (KL 3) weighs the gain of 1 of prompt 0 by 1.5 / 3 / 2; that (KL 1) weighs the gain of 3 by
    # (1 / 2 + 0.5) / 1.5.
    assert found.methods[0].score == pytest.approx((0.25 * 1 + 2 / 3 * 3) / 2)
    # IPO: prompt 1 is worse than SFT and chooses nothing for prompt 0, which chooses 2 / 3 for the gain of -1.
    assert found.methods[1].score == pytest.approx((0 + 2 / 3 * -1) / 2)


def test_each_seed_is_weighted_as_the_others_choose():
    """Seed 0 gains 3 everywhere and seed 1 loses 1: seed 1 would not choose the setting, and seed 0 would."""
    runs = [_run("dpo", [level] * 4, [1.0] * 4, seed=seed) for seed, level in enumerate([3.0, -1.0])]
    (row,) = frontier_scores([_run("sft", [0.0] * 4, [0.0] * 4), *runs]).methods
    assert row.score == pytest.approx((0 + 0.5 * -1) / 2)


def test_the_budget_is_the_median_over_methods_of_the_largest_kl():
    """Neither the method that ran away nor a small beta of another decides."""
    settings = [("dpo", "0.1", 3.0), ("dpo", "0.5", 1.0), ("ipo", "0.1", 2.0), ("simpo", "0.1", 500.0)]
    runs = [_run(method, [1.0, 1.0], [kl - 0.5, kl + 0.5], beta=beta) for method, beta, kl in settings]
    found = frontier_scores([_run("sft", [0.0, 0.0], [0.0, 0.0]), *runs])
    assert found.budget == 3.0
    assert {row.method: row.settings for row in found.methods} == {"dpo": 2, "ipo": 1, "simpo": 1}


def test_the_best_method_comes_first():
    levels = {"dpo": 0.2, "ipo": 0.9, "simpo": 0.5}
    runs = [_run(method, [level, level], [1.0, 1.0]) for method, level in levels.items()]
    found = frontier_scores([*runs, _run("sft", [0.0, 0.0], [0.0, 0.0])]).methods
    assert [row.method for row in found] == ["ipo", "simpo", "dpo"]
    assert [row.score for row in found] == pytest.approx([0.45, 0.25, 0.1])  # triangles


def test_a_method_that_is_never_above_sft_scores_nothing():
    runs = [_run("dpo", [0.4, 0.1, 0.0], [1.0, 2.0, 3.0]), _run("ipo", [0.9, 0.9, 0.9], [1.0, 2.0, 3.0])]
    found = frontier_scores([_run("sft", [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]), *runs]).methods
    assert (found[1].method, found[1].score) == ("dpo", 0.0) and math.isnan(found[1].low)


# --- bounds


def test_the_bounds_are_those_of_the_gains_with_half_their_variance_added():
    """One setting far above SFT with a KL of 2, of which all prompts choose the same half."""
    gains = [3.0, 2.0, 4.0, 2.5, 3.5, 1.0]
    runs = [_run("sft", [0.0] * 6, [0.0] * 6), _run("dpo", gains, [2.0] * 6)]
    (row,) = frontier_scores(runs).methods
    halves = np.array(gains) / 2
    half = 2.570582 * math.sqrt(1.5 * halves.var(ddof=1) / 6)  # t of 5 degrees
    assert row.score == pytest.approx(halves.mean())
    assert (row.low, row.high) == pytest.approx((row.score - half, row.score + half))


def test_what_makes_a_prompt_easy_for_sft_too_does_not_widen_the_bounds():
    """The same prompts are of SFT and of the settings."""
    level = np.array([0.0, 5.0, -3.0, 9.0])
    gains = np.array([1.0, 1.1, 0.9, 1.0])
    runs = [_run("sft", level.tolist(), [0.0] * 4), _run("dpo", (level + gains).tolist(), [2.0] * 4)]
    (row,) = frontier_scores(runs).methods
    assert row.score == pytest.approx(0.5) and 0.4 < row.low < row.high < 0.6


def _null(draw, settings, seeds, deviation, method="dpo"):
    """Runs of 60 prompts that have SFT's rewards but for noise of the setting, of its training and of samples."""
    runs = []
    for setting in range(settings):
        own = 0.5 * draw.normal(size=60)
        for seed in range(seeds):
            reward = own + deviation * draw.normal() + 0.5 * draw.normal(size=60)
            runs.append(_run(method, reward.tolist(), [1.0 + setting] * 60, beta=str(setting), seed=seed))
    return runs


@pytest.mark.parametrize(("settings", "seeds", "deviation"), [(2, 1, 0.0), (15, 1, 0.0), (15, 3, 0.3)])
def test_a_method_without_gain_seldom_scores_above_0_whatever_the_number_of_its_settings(settings, seeds, deviation):
    """It was in 7.5%, 31% and 53% of cases with 2, 5 and 15 settings. Four standard errors above 2.5% are 7.7%."""
    draw, above, trials = np.random.default_rng(0), 0, 150
    for _ in range(trials):
        sft = _run("sft", (0.7 * draw.normal(size=60)).tolist(), [0.0] * 60)
        (row,) = frontier_scores([sft, *_null(draw, settings, seeds, deviation)]).methods
        above += row.low > 0
    assert above / trials <= 0.077


def test_many_settings_do_not_beat_few():
    """18 settings were above 3 of the same distribution in 97% of cases. Four standard errors above 50% are 70%."""
    draw, above, trials = np.random.default_rng(0), 0, 100
    for _ in range(trials):
        sft = _run("sft", (0.7 * draw.normal(size=60)).tolist(), [0.0] * 60)
        found = frontier_scores([sft, *_null(draw, 18, 1, 0.0), *_null(draw, 3, 1, 0.0, "ipo")])
        above += found.difference("dpo", "ipo").mean > 0
    assert 0.3 <= above / trials <= 0.7


@given(st.randoms(use_true_random=False), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_scores_do_not_depend_on_the_order_of_the_runs(random, prompts):
    def numbers(low, high):
        return [random.randint(8 * low, 8 * high) / 8 for _ in range(prompts)]

    runs = [_run("sft", numbers(-5, 5), [0.0] * prompts)]
    runs += [
        _run(method, numbers(-5, 9), numbers(1, 9), beta=beta, seed=seed)
        for method in ("dpo", "ipo", "simpo")
        for beta in ("0.1", "0.5")
        for seed in (0, 1)
    ]
    first, other = (frontier_scores(these) for these in (runs, random.sample(runs, len(runs))))
    assert first.budget == pytest.approx(other.budget)
    rows = {row.method: (row.settings, row.score, row.low, row.high) for row in other.methods}
    assert len(rows) == 3
    for row in first.methods:
        assert rows[row.method] == pytest.approx((row.settings, row.score, row.low, row.high), nan_ok=True)


# --- nothing to score

SFT, DPO = _run("sft", [0.1, 0.2], [0.0, 0.0]), _run("dpo", [0.3, 0.4], [1.0, 1.0])


@pytest.mark.parametrize(
    "scores",
    [
        [],
        [SFT],
        [DPO],
        [score | {"reward": []} for score in (SFT, DPO)],
        [SFT, DPO | {"kl_exact": [0.0, 0.0]}],
        [SFT, DPO | {"prompt_ids": [7, 8]}],
        [SFT, DPO | {"prompt_ids": [0, 0]}],
    ],
    ids=["no run", "SFT alone", "no SFT", "no reward", "no KL", "no shared prompt", "one prompt"],
)
def test_there_is_no_score_without(scores):
    found = frontier_scores(scores)
    assert (found.budget, list(found.methods)) == (0.0, [])


def test_there_is_a_score_with_all_of_these():
    assert [row.method for row in frontier_scores([SFT, DPO]).methods] == ["dpo"]


# --- the hull

numbers = st.fractions(-50, 50, max_denominator=8)
clouds = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30)


def _height(hull, x):
    """The envelope at x, by hand: linear between corners, flat after the last."""
    for (left, low), (right, high) in pairwise(hull):
        if left <= x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return hull[-1][1]


def test_the_hull_of_a_small_cloud_is_the_one_drawn_by_hand():
    cloud = [(0, 0), (1, 3), (2, 4), (3, 4.5), (2, 1), (4, 4), (1, 1), (2.5, 4.2)]
    assert upper_hull(cloud) == [(0, 0), (1, 3), (2, 4), (3, 4.5)]


def test_points_on_one_line_leave_its_two_ends():
    assert upper_hull([(0, 0), (2, 2), (1, 1), (3, 3)]) == [(0, 0), (3, 3)]


def test_a_hull_that_only_falls_is_its_first_point():
    assert upper_hull([(1, 2), (0, 5), (3, 5), (0, 4)]) == [(0, 5)]
    assert upper_hull([]) == []


@given(clouds)
def test_every_point_lies_on_or_below_the_hull(cloud):
    hull = upper_hull(cloud)
    assert all(y <= _height(hull, x) for x, y in cloud)


@given(clouds)
def test_the_hull_rises_ever_more_slowly_from_the_leftmost_to_the_best_point(cloud):
    hull = upper_hull(cloud)
    slopes = [Fraction(d - b) / (c - a) for (a, b), (c, d) in pairwise(hull)]
    assert set(hull) <= set(cloud)
    assert hull[0][0] == min(x for x, _ in cloud) and hull[-1][1] == max(y for _, y in cloud)
    assert all(slope > 0 for slope in slopes)
    assert all(later < earlier for earlier, later in pairwise(slopes))


@given(clouds, st.randoms())
def test_the_hull_does_not_depend_on_the_order_of_the_points(cloud, random):
    shuffled = random.sample(cloud, len(cloud))
    assert upper_hull(shuffled) == upper_hull(cloud)


# --- the difference of two methods


def test_the_difference_of_two_scores_is_taken_on_the_same_prompts():
    """Prompts differ much, the methods by about 0.1 on each: the difference has little spread, the scores have much."""
    draw = np.random.default_rng(0)
    base = draw.normal(size=40)
    kl, gains = [1.0] * 40, 1.5 + draw.normal(scale=0.5, size=40)
    runs = [
        _run("sft", base.tolist(), [0.0] * 40),
        _run("a", (base + gains + 0.1 + 0.01 * draw.normal(size=40)).tolist(), kl),
        _run("b", (base + gains).tolist(), kl),
    ]
    found = frontier_scores(runs)
    difference = found.difference("a", "b")
    assert difference.mean == pytest.approx(0.05, abs=0.002)  # the mean height of a hull that rises to its only setting
    assert 0.045 < difference.low < difference.high < 0.055
    assert found.methods[0].high - found.methods[0].low > 0.1
    turned = found.difference("b", "a")
    assert turned.mean == pytest.approx(-difference.mean)
    assert [turned.low, turned.high] == pytest.approx([-difference.high, -difference.low])
