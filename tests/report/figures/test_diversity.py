"""Reward over entropy: what is drawn where."""

from statistics import fmean

import pytest

from sparsepo.report.figures.frontier import plot_diversity

FDPG = {"fdpg": "f-DPG"}


def markers(figure):
    """Label of the legend's line styles aside: (x, y) of every marker of a setting, as drawn."""
    axes = figure.axes[0]
    return {tuple(point) for container in axes.containers for point in container.lines[0].get_xydata()}


def test_a_marker_stands_at_the_mean_entropy_and_reward_of_its_setting(make_scores):
    scores = make_scores({"dpo": "DPO", "mapo": "MaPO"})
    wanted = {(fmean(score["entropy"]), fmean(score["reward"])) for score in scores if score["method"] != "sft"}
    assert sorted(markers(plot_diversity(scores))) == [pytest.approx(point) for point in sorted(wanted)]


def test_sft_is_a_star_and_every_method_stands_in_the_legend(make_scores):
    scores = make_scores({"dpo": "DPO", "mapo": "MaPO"})
    figure = plot_diversity(scores)
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    (place,) = star.get_xydata().tolist()
    assert place == pytest.approx([fmean(scores[0]["entropy"]), fmean(scores[0]["reward"])])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["DPO", "MaPO", "SFT", "β of a final run"]


def test_a_divergence_stands_beside_its_marker(make_scores):
    score = make_scores(FDPG, ("0.2",))[1]
    scores = [score | {"params": {"beta": "0.2", "divergence": name}} for name in ("kl", "js")]
    scores[1] |= {"entropy": [value - 9 for value in score["entropy"]]}
    assert {text.get_text() for text in plot_diversity(scores).axes[0].texts} == {"kl 0.2", "js 0.2"}


def test_the_figure_is_the_same_each_time(make_scores, assert_renders_alike):
    assert_renders_alike(lambda: plot_diversity(make_scores()))
