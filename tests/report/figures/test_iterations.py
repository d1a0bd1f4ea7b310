"""The figure of rounds: which points are a round's end, what counts once, and where the lines begin."""

import pytest

from sparsepo.report.figures.iterations import plot_rounds, round_ends


def row(iteration, step, reward, kl):
    return {"iteration": iteration, "step": step, "reward": reward, "kl_exact": kl, "samples": 4}


POINTS = {
    "inpo/beta~0.1-iterations~1/seed~0": [row(1, 10, 0.45, 0.9), row(1, 20, 0.5, 1.0)],
    "inpo/beta~0.1-iterations~2/seed~0": [row(1, 10, 0.45, 0.9), row(1, 20, 0.5, 1.0), row(2, 40, 0.7, 3.0)],
    "inpo/beta~0.1-iterations~2/seed~1": [row(1, 20, 0.6, 2.0), row(2, 40, 0.9, 5.0)],
    "inpo/beta~0.2-iterations~2/seed~0": [row(1, 20, 0.4, 0.5), row(2, 40, 0.45, 0.75)],
}


def test_the_last_point_of_a_round_is_its_end_and_shared_rounds_count_once():
    frame = round_ends(POINTS)
    columns = {name: frame[name].tolist() for name in ("setting", "seed", "iteration", "reward")}
    assert columns["setting"] == ["β=0.1"] * 4 + ["β=0.2"] * 2
    assert (columns["seed"], columns["iteration"]) == ([0, 0, 1, 1, 0, 0], [1, 2] * 3)
    assert columns["reward"] == [0.5, 0.7, 0.6, 0.9, 0.4, 0.45]


def test_a_line_is_the_mean_over_seeds_from_sft_on(read_panels):
    reward, kl = (panel.rows for panel in read_panels(plot_rounds(POINTS, sft_reward=0.3)))
    first = reward[reward["label"] == "β=0.1"]
    assert first["x"].tolist() == [0, 1, 2] and first["mean"].tolist() == pytest.approx([0.3, 0.55, 0.8])
    assert kl[kl["label"] == "β=0.2"]["mean"].tolist() == [0.0, 0.5, 0.75]
    assert reward[reward["label"] == "SFT"][["x", "mean"]].values.tolist() == [[0, 0.3]]
    bounded = reward.dropna(subset=["low", "high"])  # an interval where there are two seeds
    assert bounded[["label", "x"]].values.tolist() == [["β=0.1", 1], ["β=0.1", 2]]


def test_lines_of_two_methods_are_told_apart(legend_names):
    points = POINTS | {"fdpg/beta~0.1/seed~0": [row(1, 10, 0.4, 1.0)]}
    assert legend_names(plot_rounds(points, 0.3)) == ["fdpg β=0.1", "inpo β=0.1", "inpo β=0.2", "SFT"]


def test_the_figure_is_the_same_each_time(assert_renders_alike):
    assert_renders_alike(lambda: plot_rounds(POINTS, 0.3))
