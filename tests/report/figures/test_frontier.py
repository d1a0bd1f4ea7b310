import math
from itertools import combinations

import pytest

from sparsepo.report.figures.frontier import KLS, frontier_plot, pareto_plot, plot_diversity, plot_frontier, plot_pareto
from sparsepo.report.figures.label_placement import LABEL_SIZE, place_labels
from sparsepo.report.figures.reward_plot import HEIGHT
from sparsepo.report.figures.style import WIDTH, method_style
from sparsepo.report.tables.grid import grid_frame


def _score(method, reward, kl, params=None, seed=0, **rest):
    """Flat samples of two prompts, so that every mean is known and no interval is wide."""
    score = {"method": method, "label": method.upper(), "params": params or {}, "seed": seed, "prompt_ids": [0, 1]}
    score |= {"reward": [reward] * 2, "kl_exact": [kl] * 2, "kl_sample": [10 * kl] * 2, "length": [3, 3]}
    score |= {"entropy": [9.0] * 2, "distinct_1": 0.1, "distinct_2": 0.2, "auc": {}, "sparsity": {}, "logp_change": {}}
    return score | rest


SFT = _score("sft", 0.25, 0.0, seed=None)
TWO_SEEDS = [SFT, *(_score("dpo", 0.5 + seed, 2.0 + seed, {"beta": "0.1", "alpha": "3"}, seed) for seed in (0, 1))]


def _plot(scores, training_points=None, x="kl_exact"):
    return frontier_plot(grid_frame(scores), scores, training_points or {}, x)


def _rows(scores, training_points=None, x="kl_exact"):
    """(method, kind) -> its rows."""
    rows = {}
    for row in _plot(scores, training_points, x).rows:
        rows.setdefault((row["method"], row["kind"]), []).append(row)
    return rows


def _places(rows):
    return [(row["x"], row["y"]) for row in rows]


# --- what is drawn where


def test_every_part_of_a_method_is_there(make_scores, make_training_points, labels):
    scores = make_scores(seeds=(0, 1))
    kinds = {}
    for method, kind in _rows(scores, make_training_points(scores)):
        kinds.setdefault(method, set()).add(kind)
    assert kinds.pop("sft") == {"setting"}
    assert list(kinds) == list(labels)
    assert all(parts == {"line", "training", "seed", "setting"} for parts in kinds.values())


def test_the_hull_runs_from_sft_through_settings_alone():
    settings = [(1.0, 0.5), (2.0, 0.3), (4.0, 0.75), (2.5, 0.7)]
    runs = [_score("dpo", reward, kl, {"beta": str(kl)}) for kl, reward in settings]
    points = {"dpo/beta~1.0/seed~0": [{"step": 5, "reward": 0.9, "kl_exact": 0.5, "kl_sample": 0.5}]}
    rows = _rows([SFT, *runs], points)
    hull = _places(rows["dpo", "line"])
    assert (hull[0], hull[-1]) == ((0.0, 0.25), (4.0, 0.75))
    corners = [(0.0, 0.25), (1.0, 0.5), (2.5, 0.7), (4.0, 0.75)]
    for x, y in hull:
        (left, low), (right, high) = next(ends for ends in zip(corners, corners[1:], strict=False) if x <= ends[1][0])
        assert y == pytest.approx(low + (high - low) * (x - left) / (right - left))
    assert _places(rows["dpo", "training"]) == [(0.5, 0.9)]


def test_a_sampled_kl_below_zero_does_not_draw_the_hull_left_of_sft():
    runs = [_score("dpo", 0.4, -0.1, {"beta": "1"}), _score("dpo", 0.5, 1.0, {"beta": "0.1"})]
    rows = _rows([SFT, *runs], x="kl_sample")
    hull = _places(rows["dpo", "line"])
    assert (hull[0], hull[-1]) == ((0.0, 0.25), (10.0, 0.5))
    assert [row["x"] for row in rows["dpo", "setting"]] == [-1.0, 10.0]


def test_intervals_reach_to_their_bounds_and_one_prompt_has_none():
    wide = SFT | {"reward": [0.0, 1.0]}
    ((row,),) = _rows([wide]).values()
    assert (row["y"], row["y_high"]) == pytest.approx((0.5, 0.5 + 12.7062 / 2), abs=1e-4)  # t of one degree
    ((row,),) = _rows([wide | {"prompt_ids": [0, 0]}]).values()
    assert row["y"] == row["y_low"] == row["y_high"] == 0.5


@pytest.mark.parametrize(("x", "factor", "during"), [("kl_exact", 1, 0.5), ("kl_sample", 10, 0.75)])
def test_either_kl_is_on_the_axis_that_names_it(x, factor, during):
    points = {"dpo/beta~0.1/seed~0": [{"step": 1, "reward": 0.3, "kl_exact": 0.5, "kl_sample": 0.75}]}
    rows = _rows(TWO_SEEDS, points, x)
    assert [row["x"] for row in rows["dpo", "setting"]] == [2.5 * factor]
    assert [row["x"] for row in rows["dpo", "seed"]] == [2.0 * factor, 3.0 * factor]
    assert [row["x"] for row in rows["dpo", "training"]] == [during]
    assert rows["dpo", "line"][-1]["x"] == 2.5 * factor
    assert _plot(TWO_SEEDS, points, x).x_title.startswith(KLS[x])


def test_a_far_outlier_turns_the_axis_into_a_square_root(make_scores, read_panels):
    scores = make_scores()
    (panel,) = read_panels(_plot(scores).chart())
    assert panel.axis("x")["scale"]["type"] == "linear"
    scores[1] = scores[1] | {"kl_exact": [400.0 + kl for kl in scores[1]["kl_exact"]]}
    (panel,) = read_panels(_plot(scores).chart())
    axis = panel.axis("x")
    assert axis["scale"]["type"] == "sqrt" and axis["title"].endswith("square-root axis")
    roots = [math.sqrt(value) for value in axis["axis"]["values"]]
    assert roots == pytest.approx([place * roots[1] for place in range(9)])


def test_the_axes_hold_everything_that_is_drawn(make_scores, make_training_points, read_panels):
    scores = make_scores(seeds=(0, 1))
    (panel,) = read_panels(_plot(scores, make_training_points(scores)).chart())
    for axis in "xy":
        low, high = panel.axis(axis)["scale"]["domain"]
        values = panel.rows[[axis, f"{axis}_low", f"{axis}_high"]].stack()
        assert low < values.min() and values.max() < high


# --- what a reader points at


def test_pointing_at_a_setting_names_it_with_its_seeds_reward_and_kl():
    (row,) = _rows(TWO_SEEDS)["dpo", "setting"]
    assert (row["title"], row["run"]) == ("DPO alpha=3, beta=0.1", "2 seeds, at the end")
    assert row["reward"].startswith("1.000 [") and row["KL"].startswith("2.500 [") and row["KL"].endswith("] nats")
    (row,) = _rows(TWO_SEEDS[:2])["dpo", "setting"]
    assert (row["run"], row["reward"], row["KL"]) == (
        "1 seed, at the end",
        "0.500",
        "2.000 nats",
    )  # equal prompts have no interval


def test_pointing_at_a_point_of_training_names_its_run_and_step():
    point = {"step": 40, "reward": 0.125, "kl_exact": 1.5, "kl_sample": 7.0}
    (row,) = _rows(TWO_SEEDS, {"dpo/alpha~3-beta~0.1/seed~1": [point]})["dpo", "training"]
    assert (row["title"], row["run"]) == ("DPO alpha=3, beta=0.1", "seed 1, step 40")
    assert (row["reward"], row["KL"]) == ("0.125", "1.500 nats")


def test_several_seeds_are_shown_each():
    seeds = _rows(TWO_SEEDS)["dpo", "seed"]
    assert _places(seeds) == [(2.0, 0.5), (3.0, 1.5)]
    assert [row["run"] for row in seeds] == ["seed 0, at its end", "seed 1, at its end"]
    assert ("dpo", "seed") not in _rows(TWO_SEEDS[:2])


# --- for print


def test_the_legend_names_every_method_once_and_the_remarks_what_is_there(
    make_scores, labels, legend_names, read_panels
):
    scores = make_scores(seeds=(0, 1))
    points = {scores[1]["run"]: [{"step": 1, "reward": 0.5, "kl_sample": 1.0, "kl_exact": 1.0}]}
    chart = plot_frontier(scores, points)
    assert legend_names(chart) == ["SFT", *labels.values()]
    (panel,) = read_panels(chart)
    assert "during training" in panel.title and "single seeds" in panel.title
    (panel,) = read_panels(plot_frontier(make_scores(), {}))
    assert "during training" not in panel.title and "single seeds" not in panel.title


@pytest.mark.parametrize("betas", [("0.1", "0.5"), ("0.01", "0.05", "0.1", "0.2", "0.5", "1", "5")])
def test_no_two_beta_labels_overlap_or_leave_the_panel(make_scores, make_training_points, read_panels, betas):
    scores = make_scores(betas=betas)
    (panel,) = read_panels(plot_frontier(scores, make_training_points(scores)))
    labels = panel.rows.dropna(subset=["px"]).drop_duplicates(["px", "py"])  # drawn twice, once as a halo
    assert len(labels) >= 8 and set(labels["text"]) <= set(betas)
    boxes = [(x, y - LABEL_SIZE / 2, x + 3 * len(text), y + LABEL_SIZE / 2)
             for x, y, text in labels[["px", "py", "text"]].itertuples(index=False)]  # fmt: skip
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert all(left >= 0 and right <= WIDTH and top >= 0 and bottom <= HEIGHT for left, top, right, bottom in boxes)


def test_a_label_without_room_is_left_out():
    first, second = place_labels([("0.1", (50, 50)), ("0.5", (50, 50))], [], (100, 100))
    assert first[0] > 50 and second[0] < 50
    assert place_labels([("0.1", (50, 50))], [((0, 50), (100, 50)), ((50, 0), (50, 100))], (100, 100)) != [None]
    assert place_labels([("0.1", (5, 5))], [], (10, 10)) == [None]
    wall = [((0, y), (100, y)) for y in range(0, 101, 5)]
    assert place_labels([("0.1", (50, 50))], wall, (100, 100)) == [None]


def test_one_prompt_without_intervals_and_no_sft_still_draws(make_scores, assert_renders_alike):
    score = make_scores({"dpo": "DPO"}, ("0.1",))[1]
    score = score | {"prompt_ids": [0] * len(score["prompt_ids"])}
    assert_renders_alike(lambda: plot_frontier([score], {}))


def test_the_frontier_is_the_same_bytes_each_time(make_scores, make_training_points, assert_renders_alike):
    scores = make_scores()
    assert_renders_alike(lambda: plot_frontier(scores, make_training_points(scores)))


# --- all points during training


POINTS = {
    "dpo/beta~0.1/seed~0": [(1.0, 0.5), (2.0, 0.4), (3.0, 0.9)],
    "dpo/beta~0.5/seed~0": [(0.5, 0.3), (2.5, 0.5), (3.0, 0.8), (4.0, 0.9)],
    "ipo/beta~1/seed~0": [(5.0, 0.1)],
}


def _training(points):
    return {
        run: [
            {"step": step, "kl_exact": kl, "kl_sample": 0.0, "reward": reward} for step, (kl, reward) in enumerate(own)
        ]
        for run, own in points.items()
    }


def test_the_pareto_set_of_a_method_is_of_all_points_of_its_settings():
    """By hand: (2, 0.4), (2.5, 0.5), (3, 0.8) and (4, 0.9) are equalled or beaten by a point of no more KL."""
    rows = {}
    for row in pareto_plot([*TWO_SEEDS, _score("ipo", 0.5, 1.0)], _training(POINTS)).rows:
        rows.setdefault((row["method"], row["kind"]), []).append(row)
    assert _places(rows["dpo", "line"]) == [(0.5, 0.3), (1.0, 0.5), (3.0, 0.9)]
    assert [row["order"] for row in rows["dpo", "line"]] == [0, 1, 2]
    assert len(rows["dpo", "training"]) == 7 and _places(rows["ipo", "line"]) == [(5.0, 0.1)]
    assert _places(rows["sft", "setting"]) == [(0.0, 0.25)] and ("dpo", "setting") not in rows


def test_no_point_is_above_the_pareto_set_and_it_rises(make_scores, make_training_points):
    scores = make_scores(seeds=(0, 1))
    rows = pareto_plot(scores, make_training_points(scores)).rows
    for method in {row["method"] for row in rows} - {"sft"}:
        line = _places(row for row in rows if (row["method"], row["kind"]) == (method, "line"))
        assert line == sorted(line) and [y for _, y in line] == sorted({y for _, y in line})
        for x, y in _places(row for row in rows if (row["method"], row["kind"]) == (method, "training")):
            assert max(high for across, high in line if across <= x) >= y


def test_without_points_the_pareto_figure_says_so(make_scores, make_training_points, assert_renders_alike):
    scores = make_scores()
    assert "during training" in plot_pareto(scores, {score["run"]: [] for score in scores}).mark.text
    assert_renders_alike(lambda: plot_pareto(scores, make_training_points(scores)))


# --- diversity


def test_a_marker_stands_at_the_mean_entropy_and_reward_of_its_setting(read_panels):
    scores = [SFT, _score("dpo", 0.5, 1.0, {"beta": "0.1"}, entropy=[3.0, 5.0])]
    (panel,) = read_panels(plot_diversity(scores))
    settings = panel.rows[panel.rows["kind"] == "setting"]
    assert settings[["method", "x", "y"]].values.tolist() == [["sft", 9.0, 0.25], ["dpo", 4.0, 0.5]]


def test_the_line_of_a_method_rises_through_its_settings(read_panels):
    scores = [SFT, *(_score("dpo", reward, 1.0, {"beta": str(reward)}) for reward in (0.7, 0.3, 0.5))]
    (panel,) = read_panels(plot_diversity(scores))
    lines = panel.rows[panel.rows["kind"] == "line"].sort_values("order")
    assert lines["y"].tolist() == [0.3, 0.5, 0.7] and set(lines["method"]) == {"dpo"}


def test_a_divergence_stands_beside_its_marker(make_scores, read_panels):
    score = make_scores({"fdpg": "f-DPG"}, ("0.2",))[1]
    scores = [score | {"params": {"beta": "0.2", "divergence": name}} for name in ("kl", "js")]
    scores[1] |= {"entropy": [value - 9 for value in score["entropy"]]}
    (panel,) = read_panels(plot_diversity(scores))
    assert set(panel.rows["text"].dropna()) == {"kl 0.2", "js 0.2"}


def test_the_diversity_is_the_same_bytes_each_time(make_scores, assert_renders_alike):
    assert_renders_alike(lambda: plot_diversity(make_scores()))


def test_each_method_has_its_own_colour_and_marker(make_scores, labels, read_panels):
    (panel,) = read_panels(_plot(make_scores()).chart())
    encoding = panel.spec["layer"][-1]["encoding"]
    styles = [method_style(method) for method in ("sft", *labels)]
    assert encoding["color"]["scale"]["range"] == [style.colour for style in styles]
    assert encoding["shape"]["scale"]["range"] == [style.marker for style in styles]
