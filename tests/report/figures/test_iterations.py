"""The figure of rounds: which points are a round's end, what counts once, and where the lines begin."""

import pytest

from sparsepo.report.figures.iterations import by_round, plot_rounds


def row(iteration, step, reward, kl):
    return {"iteration": iteration, "step": step, "reward": reward, "kl_exact": kl, "samples": 4}


POINTS = {
    "inpo/beta~0.1-iterations~1/seed~0": [row(1, 10, 0.45, 0.9), row(1, 20, 0.5, 1.0)],
    "inpo/beta~0.1-iterations~2/seed~0": [row(1, 10, 0.45, 0.9), row(1, 20, 0.5, 1.0), row(2, 40, 0.7, 3.0)],
    "inpo/beta~0.1-iterations~2/seed~1": [row(1, 20, 0.6, 2.0), row(2, 40, 0.9, 5.0)],
    "inpo/beta~0.2-iterations~2/seed~0": [row(1, 20, 0.4, 0.5), row(2, 40, 0.45, 0.75)],
}


def test_the_last_point_of_a_round_is_its_end_and_shared_rounds_count_once():
    frame = by_round(POINTS)
    of = {name: frame[name].tolist() for name in ("setting", "seed", "iteration", "reward")}
    assert of["setting"] == ["β=0.1"] * 4 + ["β=0.2"] * 2
    assert (of["seed"], of["iteration"]) == ([0, 0, 1, 1, 0, 0], [1, 2] * 3)
    assert of["reward"] == [0.5, 0.7, 0.6, 0.9, 0.4, 0.45]


def test_a_line_is_the_mean_over_seeds_from_sft_on():
    reward, kl = plot_rounds(POINTS, sft_reward=0.3).axes
    lines = {line.get_label(): line for line in reward.lines}
    assert lines["β=0.1"].get_xdata().tolist() == [0, 1, 2]
    assert lines["β=0.1"].get_ydata().tolist() == pytest.approx([0.3, 0.55, 0.8])
    assert {line.get_label(): line.get_ydata().tolist() for line in kl.lines}["β=0.2"] == [0.0, 0.5, 0.75]
    assert (lines["SFT"].get_xdata().tolist(), lines["SFT"].get_ydata().tolist()) == ([0], [0.3])
    assert len(reward.collections) == 2, "an interval where there are two seeds: of beta 0.1 at rounds 1 and 2"


def test_the_figure_is_the_same_each_time(assert_renders_alike):
    assert_renders_alike(lambda: plot_rounds(POINTS, 0.3))
