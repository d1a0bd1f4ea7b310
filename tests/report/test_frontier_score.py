import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo.report.frontier_score import frontier_scores, gain, upper_hull


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


def _quantile(values, share):
    """Linear between the sorted values."""
    values = sorted(values)
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


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


def test_a_small_case_is_as_by_hand():
    """Prompts 2 and 3 are not everywhere; samples are averaged by prompt, then seeds, then prompts."""
    scores = [
        _run("sft", [0.0, 2.0, 3.0, 100.0], [0.0] * 4, [0, 0, 1, 2]),  # 1 and 3: mean 2
        _run("ipo", [3.0, 2.0], [1.0, 1.0]),  # (1, 2.5)
        _run("dpo", [2.0, 4.0, 8.0, 50.0], [1.0, 2.0, 4.0, 90.0], [0, 1, 1, 3]),  # rewards 2 and 6, KL 1 and 3
        _run("dpo", [4.0, 4.0], [5.0, 3.0], [1, 0], seed=1),  # with it 3 and 5, KL 2 and 4: (3, 4)
    ]
    found = frontier_scores(scores)
    assert found.budget == 2.0  # the median of 1 and 3
    assert [(row.method, row.label, row.settings) for row in found.methods] == [("dpo", "DPO", 1), ("ipo", "IPO", 1)]
    assert found.methods[0].score == pytest.approx(2 / 3)  # up to height 4/3 at KL 2
    assert found.methods[1].score == pytest.approx((0.25 + 0.5) / 2)


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
    assert (found[1].method, found[1].score, found[1].low, found[1].high) == ("dpo", 0.0, 0.0, 0.0)


# --- bounds


def test_the_bounds_are_those_of_a_bootstrap_written_out():
    numbers = np.random.default_rng(5)
    count, resamples, seed = 6, 150, 3
    settings = [("sft", "0.1"), ("dpo", "0.1"), ("dpo", "0.5"), ("dpo", "1"), ("ipo", "0.1")]
    rewards = {at: numbers.normal(0.4 * place, 0.5, count).tolist() for place, at in enumerate(settings)}
    apart = {at: numbers.uniform(0.5, 1.5 + place, count).tolist() for place, at in enumerate(settings)}
    apart["sft", "0.1"] = [0.0] * count
    runs = [_run(method, rewards[method, beta], apart[method, beta], beta=beta) for method, beta in settings]
    found = frontier_scores(runs, resamples=resamples, seed=seed)

    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, resamples)

    def points(method, times):
        """Means of SFT and of the settings of a method, prompt i counted times[i] times."""
        these = [at for at in settings if at[0] in ("sft", method)]
        means = []
        for at in these:
            kl = sum(t * value for t, value in zip(times, apart[at], strict=True)) / count
            reward = sum(t * value for t, value in zip(times, rewards[at], strict=True)) / count
            means.append((kl, reward))
        return means

    ends = {method: max(kl for kl, _ in points(method, [1] * count)) for method in ("dpo", "ipo")}
    budget = (ends["dpo"] + ends["ipo"]) / 2
    assert found.budget == pytest.approx(budget)
    for row in found.methods:
        areas = [_area(points(row.method, times), budget) for times in draws.tolist()]
        assert row.score == pytest.approx(_area(points(row.method, [1] * count), budget))
        assert (row.low, row.high) == pytest.approx((_quantile(areas, 0.025), _quantile(areas, 0.975)))
        assert row.low < row.score < row.high


def test_what_makes_a_prompt_easy_for_sft_too_does_not_widen_the_bounds():
    """The same prompts are drawn for SFT and for the settings."""
    level = [0.0, 5.0, -3.0, 9.0]
    runs = [_run("sft", level, [0.0] * 4), _run("dpo", [value + 1.0 for value in level], [2.0] * 4)]
    (row,) = frontier_scores(runs).methods
    assert (row.score, row.low, row.high) == pytest.approx((0.5, 0.5, 0.5))


def test_one_prompt_has_a_score_and_no_bounds():
    runs = [_run("sft", [0.0, 0.0], [0.0, 0.0], [4, 4]), _run("dpo", [1.0, 3.0], [2.0, 2.0], [4, 4])]
    (row,) = frontier_scores(runs).methods
    assert row.score == pytest.approx(1.0)
    assert math.isnan(row.low) and math.isnan(row.high)


@given(st.randoms(use_true_random=False), st.integers(1, 4))
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
    first, other = (frontier_scores(these, resamples=20) for these in (runs, random.sample(runs, len(runs))))
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
    ],
    ids=["no run", "SFT alone", "no SFT", "no reward", "no KL", "no shared prompt"],
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
    """Prompts differ much, the methods by 0.1 on every prompt: the difference has no spread, the scores have."""
    draw = np.random.default_rng(0)
    base = draw.normal(size=40)
    sft, kl = base.copy(), [1.0] * 40
    gains = 0.5 + draw.normal(scale=0.5, size=40)
    runs = [
        _run("sft", sft.tolist(), [0.0] * 40),
        _run("a", (base + gains + 0.1).tolist(), kl),
        _run("b", (base + gains).tolist(), kl),
    ]
    found = frontier_scores(runs)
    difference = found.difference("a", "b")
    assert difference.mean == pytest.approx(0.05)  # the mean height of a hull that rises from 0 to its only setting
    assert [difference.low, difference.high] == pytest.approx([0.05, 0.05])
    assert found.methods[0].high - found.methods[0].low > 0.1
    turned = found.difference("b", "a")
    assert turned.mean == pytest.approx(-difference.mean)
    assert [turned.low, turned.high] == pytest.approx([-difference.high, -difference.low])


def test_one_prompt_gives_a_difference_without_bounds():
    runs = [_run("sft", [0.0], [0.0]), _run("a", [1.0], [1.0]), _run("b", [0.5], [1.0])]
    found = frontier_scores(runs).difference("a", "b")
    assert found.mean == pytest.approx(0.25) and math.isnan(found.low) and math.isnan(found.high)
