from fractions import Fraction
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsepo.report.figures.frontier import plot_frontier, upper_hull

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


def _lines(figure):
    """The hull lines: those with many points."""
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) > 100]


def test_every_method_has_a_line_that_starts_at_sft(make_scores, make_training_points, labels):
    scores = make_scores()
    figure = plot_frontier(scores, make_training_points(scores))
    reward = sum(scores[0]["reward"]) / len(scores[0]["reward"])
    starts = {tuple(line.get_xydata()[0].round(6)) for line in _lines(figure)}
    assert len(_lines(figure)) == len(labels)
    assert starts == {(0.0, round(reward, 6))}


def test_the_legend_names_every_method_once_with_sft_and_the_points(make_scores, labels):
    scores = make_scores(seeds=(0, 1))
    points = {scores[1]["run"]: [{"step": 1, "reward": 0.5, "kl_sample": 1.0, "kl_exact": 1.0}]}
    names = [text.get_text() for text in plot_frontier(scores, points).legends[0].get_texts()]
    assert names == [*labels.values(), "SFT", "during training", "β of a final run"]
    assert "during training" not in [text.get_text() for text in plot_frontier(scores, {}).legends[0].get_texts()]


def test_the_line_rests_on_the_settings_and_not_on_points_of_training(make_scores):
    scores = make_scores({"dpo": "DPO"}, ("0.1",))
    high = {"step": 5, "reward": 2.0, "kl_sample": 0.5, "kl_exact": 0.1}
    for x in ("kl_exact", "kl_sample"):
        (line,) = _lines(plot_frontier(scores, {"dpo/beta~0.1/seed~0": [high]}, x=x))
        end = [sum(scores[1][name]) / len(scores[1][name]) for name in (x, "reward")]
        assert line.get_xydata()[-1] == pytest.approx(end)


@pytest.mark.parametrize("betas", [("0.1", "0.5"), ("0.01", "0.05", "0.1", "0.2", "0.5", "1", "5")])
def test_no_two_beta_labels_overlap(make_scores, make_training_points, betas):
    scores = make_scores(betas=betas)
    figure = plot_frontier(scores, make_training_points(scores))
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) >= 8
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_a_far_outlier_turns_the_axis_into_a_square_root(make_scores):
    scores = make_scores()
    assert plot_frontier(scores, {}).axes[0].get_xscale() == "linear"
    scores[1] = scores[1] | {"kl_exact": [400.0 + kl for kl in scores[1]["kl_exact"]]}
    axes = plot_frontier(scores, {}).axes[0]
    assert axes.get_xscale() == "function" and "square-root" in axes.get_xlabel()


def test_one_prompt_without_intervals_and_no_sft_still_draws(make_scores, assert_renders_alike):
    score = make_scores({"dpo": "DPO"}, ("0.1",))[1]
    score = score | {"prompt_ids": [0] * len(score["prompt_ids"])}
    assert_renders_alike(lambda: plot_frontier([score], {}))


def test_the_frontier_is_the_same_bytes_each_time(make_scores, make_training_points, assert_renders_alike):
    scores = make_scores()
    assert_renders_alike(lambda: plot_frontier(scores, make_training_points(scores)))
