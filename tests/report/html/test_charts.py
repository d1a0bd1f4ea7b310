"""The figures of the page, read as the browser reads them."""

import json
import math

import pytest

from sparsepo.report.figures.style import DARK_PAGE, METHOD_STYLES, SPARE_COLOURS, luminance, on_dark
from sparsepo.report.html import charts
from sparsepo.report.html.charts import DARK, INK, frames, frontier_figure
from sparsepo.report.tables.grid import main_table

# Markers of matplotlib, and what Plotly calls the same shapes.
SYMBOLS = {"*": "star", "o": "circle", "h": "hexagon", "p": "pentagon", "s": "square", "d": "diamond-tall"}
SYMBOLS |= {"<": "triangle-left", ">": "triangle-right", "^": "triangle-up", "v": "triangle-down", "D": "diamond"}
SYMBOLS |= {"P": "cross", "X": "x"}
LABELS = {"dpo": "DPO", "mapo": "MaPO", "simpo": "SimPO"}


def dynamics_figures(dynamics, labels):
    return charts.dynamics_figures(frames(dynamics), labels)


def endings(dynamics, labels):
    return charts.endings(frames(dynamics), labels)


def _read(text):
    """JSON as browsers take it: no NaN, no Infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _frontier(scores, passed=None, x="kl_exact"):
    """Method -> kind -> its trace, a kind being hull, during, seeds or settings."""
    found = {}
    for trace in _read(json.dumps(frontier_figure(main_table(scores), scores, passed or {}, x)))["data"]:
        if trace["mode"] == "lines":
            kind = "hull"
        elif trace["marker"]["symbol"].endswith("-open"):
            kind = "seeds"
        else:
            kind = "settings" if "error_y" in trace else "during"
        traces = found.setdefault(trace["meta"]["method"], {})
        assert kind not in traces
        traces[kind] = trace
    return found


def _score(method, reward, kl, params=None, seed=0, **rest):
    """Flat samples of two prompts, so that every mean is known and no interval is wide."""
    made = {"method": method, "label": method.upper(), "params": params or {}, "seed": seed, "prompt_ids": [0, 1]}
    made |= {"reward": [reward] * 2, "kl_exact": [kl] * 2, "kl_sample": [10 * kl] * 2, "length": [3, 3]}
    made |= {"entropy": [9.0] * 2, "distinct_1": 0.1, "distinct_2": 0.2, "auc": {}, "sparsity": {}, "logp_change": {}}
    return made | rest


SFT = _score("sft", 0.25, 0.0, seed=None)
TWO_SEEDS = [SFT, *(_score("dpo", 0.5 + seed, 2.0 + seed, {"beta": "0.1", "alpha": "3"}, seed) for seed in (0, 1))]


# --- frontier


def test_each_method_has_its_own_colour_and_shape(make_scores, make_training_points):
    scores = make_scores(seeds=(0, 1))
    found = _frontier(scores, make_training_points(scores))
    assert len(found) == 9
    for method, traces in found.items():
        style = METHOD_STYLES[method]
        for kind, trace in traces.items():
            drawn = trace["line"] if kind == "hull" else trace["marker"]
            assert drawn["color"] == style.colour
            if kind != "hull":
                assert drawn["symbol"].removesuffix("-open") == SYMBOLS[style.marker]


def test_all_parts_of_a_method_are_switched_by_its_name(make_scores, make_training_points):
    scores = make_scores(seeds=(0, 1))
    found = _frontier(scores, make_training_points(scores))
    assert set(found.pop("sft")) == {"settings"}
    assert all(set(traces) == {"hull", "during", "seeds", "settings"} for traces in found.values())


def test_the_hull_runs_from_sft_through_settings_alone():
    settings = [(1.0, 0.5), (2.0, 0.3), (4.0, 0.75), (2.5, 0.7)]
    runs = [_score("dpo", reward, kl, {"beta": str(kl)}) for kl, reward in settings]
    passed = {"dpo/beta~1.0/seed~0": [{"step": 5, "reward": 0.9, "kl_exact": 0.5, "kl_sample": 0.5}]}
    found = _frontier([SFT, *runs], passed)["dpo"]
    hull = list(zip(found["hull"]["x"], found["hull"]["y"], strict=True))
    assert hull == [(0.0, 0.25), (1.0, 0.5), (2.5, 0.7), (4.0, 0.75)]
    assert (found["during"]["x"], found["during"]["y"]) == ([0.5], [0.9])


def test_a_sampled_kl_below_zero_does_not_draw_the_hull_left_of_sft():
    runs = [_score("dpo", 0.4, -0.1, {"beta": "1"}), _score("dpo", 0.5, 1.0, {"beta": "0.1"})]
    found = _frontier([SFT, *runs], x="kl_sample")["dpo"]
    assert list(zip(found["hull"]["x"], found["hull"]["y"], strict=True)) == [(0.0, 0.25), (10.0, 0.5)]
    assert found["settings"]["x"] == [-1.0, 10.0]


def test_pointing_at_a_setting_names_it_with_its_seeds_reward_and_kl():
    found = _frontier(TWO_SEEDS)["dpo"]["settings"]
    assert found["hovertemplate"] == "%{text}<extra></extra>"
    (text,) = found["text"]
    title, seeds, reward, kl = text.split("<br>")
    assert (title, seeds) == ("DPO alpha=3, beta=0.1", "2 seeds, at the end")
    assert reward.startswith("reward 1.000 [") and kl.startswith("KL 2.500 [") and kl.endswith("] nats")
    alone = _frontier([SFT, TWO_SEEDS[1]])["dpo"]["settings"]["text"]
    assert alone == ["DPO alpha=3, beta=0.1<br>1 seed, at the end<br>reward 0.500 [0.500, 0.500]"
                     "<br>KL 2.000 [2.000, 2.000] nats"]  # fmt: skip


def test_pointing_at_a_point_of_training_names_its_run_and_step():
    row = {"step": 40, "reward": 0.125, "kl_exact": 1.5, "kl_sample": 7.0}
    passed = {"dpo/alpha~3-beta~0.1/seed~1": [row]}
    assert _frontier(TWO_SEEDS, passed)["dpo"]["during"]["text"] == [
        "DPO alpha=3, beta=0.1<br>seed 1, step 40<br>reward 0.125<br>KL 1.500 nats"
    ]


def test_several_seeds_are_shown_each():
    seeds = _frontier(TWO_SEEDS)["dpo"]["seeds"]
    assert (seeds["x"], seeds["y"]) == ([2.0, 3.0], [0.5, 1.5])
    assert seeds["text"] == [
        f"DPO alpha=3, beta=0.1<br>seed {seed}, at its end<br>reward {seed + 0.5:.3f}<br>KL {seed + 2:.3f} nats"
        for seed in (0, 1)
    ]
    assert "seeds" not in _frontier(TWO_SEEDS[:2])["dpo"]


def test_either_kl_is_on_the_axis_that_names_it():
    titles = set()
    passed = {"dpo/beta~0.1/seed~0": [{"step": 1, "reward": 0.3, "kl_exact": 0.5, "kl_sample": 0.75}]}
    for x, factor, during in (("kl_exact", 1, 0.5), ("kl_sample", 10, 0.75)):
        found = _frontier(TWO_SEEDS, passed, x)["dpo"]
        assert found["settings"]["x"] == [2.5 * factor]
        assert found["seeds"]["x"] == [2.0 * factor, 3.0 * factor]
        assert found["hull"]["x"] == [0.0, 2.5 * factor]
        assert found["during"]["x"] == [during]
        assert f"KL {2.5 * factor:.3f} [" in found["settings"]["text"][0]
        titles.add(
            _read(json.dumps(frontier_figure(main_table(TWO_SEEDS), TWO_SEEDS, {}, x)))["layout"]["xaxis"]["title"][
                "text"
            ]
        )
    assert len(titles) == 2 and any(title.startswith("exact KL") for title in titles)


def test_bars_reach_to_the_ends_of_the_interval_and_one_prompt_has_none():
    wide = SFT | {"reward": [0.0, 1.0]}
    bars = _frontier([wide])["sft"]["settings"]["error_y"]
    assert (bars["array"], bars["arrayminus"]) == ([0.5], [0.5])  # both draws of one prompt are among 95%
    alone = _frontier([wide | {"prompt_ids": [0, 0]}])["sft"]["settings"]
    assert alone["y"] == [0.5] and alone["error_y"]["array"] == alone["error_y"]["arrayminus"] == [None]


def test_the_figure_is_the_same_text_each_time(make_scores, make_training_points):
    scores = make_scores()
    points = make_training_points(scores)
    first, second = (frontier_figure(main_table(found), found, points, "kl_exact") for found in (scores, make_scores()))
    assert first == second


# --- dynamics


def _steps(count, **values):
    """Rows in which each quantity is a number, or a function of the step."""
    return [
        {"step": step} | {name: value(step) if callable(value) else value for name, value in values.items()}
        for step in range(count)
    ]


def _sides(name, chosen, rejected):
    return {f"{name}_chosen": chosen, f"{name}_rejected": rejected}


def _traces(panels):
    return [trace for panel in panels for trace in panel["figure"]["data"]]


def test_a_quantity_has_a_panel_for_each_beta_the_smallest_first():
    runs = ["dpo/beta~10/seed~0", "dpo/beta~2/seed~0", "mapo/beta~0.5/seed~0", "mapo/beta~2-form~a/seed~0"]
    runs += ["mapo/beta~2-form~b/seed~0", "simpo/gamma~1/seed~0"]
    panels = dynamics_figures({run: _steps(5, loss=1.0) for run in runs}, LABELS)["loss"]
    assert [panel["title"] for panel in panels] == ["β=0.5", "β=2", "β=10", "default"]
    names = [[trace["name"] for trace in panel["figure"]["data"]] for panel in panels]
    assert names == [["MaPO β=0.5"], ["DPO β=2", "MaPO β=2, form=a", "MaPO β=2, form=b"], ["DPO β=10"],
                     ["SimPO default"]]  # fmt: skip


def test_all_panels_of_a_quantity_share_one_axis_that_holds_every_value(make_dynamics, labels):
    found = dynamics_figures(make_dynamics(betas=("0.01", "0.1", "5")), labels)
    ranges = {}
    for name, panels in found.items():
        (ranges[name],) = {tuple(panel["figure"]["layout"]["yaxis"]["range"]) for panel in panels}
        values = [value for trace in _traces(panels) for value in trace["y"]]
        low, high = ranges[name]
        assert low < min(values) and max(values) < high
        assert high - low < 1.2 * (max(values) - min(values)) or min(values) == max(values)
    assert ranges["reverse_kl"] != ranges["sparsity_u"]


def test_chosen_is_solid_and_rejected_dotted_and_what_is_of_the_pair_is_one_line():
    rows = _steps(5, loss=0.5, **_sides("reverse_kl", 1.0, 2.0))
    found = dynamics_figures({"dpo/beta~0.1/seed~0": rows}, LABELS)
    lines = {(trace["name"], trace["line"]["dash"]): trace["y"] for trace in _traces(found["reverse_kl"])}
    assert lines == {("DPO β=0.1, chosen", "solid"): [1.0] * 5, ("DPO β=0.1, rejected", "dot"): [2.0] * 5}
    (line,) = _traces(found["loss"])
    assert (line["name"], line["line"]["dash"], line["y"]) == ("DPO β=0.1", "solid", [0.5] * 5)


def test_a_line_has_the_colour_and_shape_of_its_method(make_dynamics, labels):
    for panels in dynamics_figures(make_dynamics(), labels).values():
        for trace in _traces(panels):
            style = METHOD_STYLES[trace["meta"]["method"]]
            assert trace["line"]["color"] == trace["marker"]["color"] == style.colour
            assert trace["marker"]["symbol"] == SYMBOLS[style.marker]
            assert trace["name"].startswith(labels[trace["meta"]["method"]])


@pytest.mark.parametrize("count", [1, 2, 59, 60, 61, 119, 120, 1000])
def test_a_line_keeps_its_ends_and_has_sixty_points_at_most(count):
    panels = dynamics_figures({"dpo/beta~0.1/seed~0": _steps(count, loss=float)}, LABELS)["loss"]
    (line,) = _traces(panels)
    assert (line["x"][0], line["x"][-1], len(line["x"])) == (0, count - 1, min(count, 60))
    gaps = {after - before for before, after in zip(line["x"], line["x"][1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert line["x"] == sorted(set(line["x"])) and len(line["y"]) == len(line["x"])


def test_a_line_is_the_mean_over_the_seeds_of_a_setting():
    dynamics = {f"dpo/beta~{beta}/seed~{seed}": _steps(4, loss=level) for beta, seed, level in
                [("0.1", 0, 1.0), ("0.1", 1, 4.0), ("0.5", 0, 7.0)]}  # fmt: skip
    lines = _traces(dynamics_figures(dynamics, LABELS)["loss"])
    assert [line["y"] for line in lines] == [[2.5] * 4, [7.0] * 4]


def test_rows_of_validation_are_neither_drawn_nor_in_the_way():
    rows = [{"step": 0, "validation_loss": 9.0}, *_steps(3, loss=0.5), {"step": 1.5, "validation_loss": 8.0}]
    (line,) = _traces(dynamics_figures({"dpo/beta~0.1/seed~0": rows}, LABELS)["loss"])
    assert (line["x"], line["y"]) == ([0, 1, 2], [0.5] * 3)


def test_quantities_that_nobody_logged_are_left_out():
    runs = {"dpo/beta~0.1/seed~0": _steps(3, loss=0.5), "mapo/beta~0.1/seed~0": _steps(3, reward_margin=1.0, other=2.0)}
    found = dynamics_figures(runs, LABELS)
    assert list(found) == ["reward_margin", "loss"]
    assert [trace["meta"]["method"] for trace in _traces(found["reward_margin"])] == ["mapo"]
    assert dynamics_figures({}, LABELS) == {}


def test_every_panel_is_json(make_dynamics, labels):
    assert len(_read(json.dumps(dynamics_figures(make_dynamics(), labels)))) == 5


# --- where the curves end


def test_the_endings_are_the_last_values_of_a_setting():
    ends_at_81 = _steps(10, loss=lambda step: float(step**2), **_sides("forward_kl", float, 3.0))
    runs = {"dpo/beta~0.1/seed~0": ends_at_81, "dpo/beta~0.5/seed~0": _steps(4, loss=0.123456)}
    assert endings(runs, LABELS) == [
        {"method": "DPO", "setting": "β=0.1", "forward_kl_chosen": 9.0, "forward_kl_rejected": 3.0, "loss": 81.0},
        {"method": "DPO", "setting": "β=0.5", "loss": 0.1235},
    ]


def test_the_endings_are_the_means_of_seeds_and_no_row_of_validation():
    runs = {f"dpo/beta~0.1/seed~{seed}": _steps(3, loss=1.0 + seed) for seed in (0, 1)}
    runs["dpo/beta~0.1/seed~0"].append({"step": 3, "validation_loss": 5.0})
    assert endings(runs, LABELS) == [{"method": "DPO", "setting": "β=0.1", "loss": 1.5}]


def test_the_endings_are_where_the_lines_end(make_dynamics, labels):
    dynamics = make_dynamics(seeds=(0, 1), steps=300)
    figures = dynamics_figures(dynamics, labels)
    ends = {(row["method"], row["setting"]): row for row in endings(dynamics, labels)}
    lines = [(name, trace) for name, panels in figures.items() for trace in _traces(panels)]
    assert len(ends) == 16 and len(lines) > 16
    for name, trace in lines:
        said, _, side = trace["name"].partition(", ")
        method, setting = said.rsplit(" ", 1)
        assert ends[method, setting][f"{name}_{side}" if side else name] == trace["y"][-1]


# --- in the dark


def _linear(share):
    return share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4  # as WCAG 2.0 printed it


def _contrast(one, other):
    levels = []
    for colour in (one, other):
        red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
        levels.append(0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
    return max(levels) / min(levels)


def test_the_contrasts_here_are_those_that_everybody_prints():
    assert _contrast("#000000", "#FFFFFF") == pytest.approx(21.0)
    assert _contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.005)
    assert luminance("#FFFFFF") == pytest.approx(1.0) and luminance("#000000") == 0.0
    assert (1.0 + 0.05) / (luminance("#777777") + 0.05) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("colour", [*(style.colour for style in METHOD_STYLES.values()), *SPARE_COLOURS, INK])
def test_every_colour_of_a_figure_stands_out_on_the_dark_page(colour):
    assert _contrast(DARK[colour.upper()], DARK_PAGE) >= 4.5


@pytest.mark.parametrize("colour", [style.colour for style in METHOD_STYLES.values()])
def test_a_colour_is_made_no_lighter_than_it_has_to_be(colour):
    dark = on_dark(colour)
    if _contrast(colour, DARK_PAGE) >= 4.5:
        assert dark == colour
    else:
        assert _contrast(dark, DARK_PAGE) < 4.8


def test_no_two_trained_methods_share_a_colour_in_the_dark():
    dark = {method: DARK[style.colour] for method, style in METHOD_STYLES.items() if method != "sft"}
    assert len(set(dark.values())) == len(dark) == 23


def test_every_colour_that_a_figure_uses_has_a_dark_one(make_scores, make_dynamics, make_training_points, labels):
    scores = make_scores()
    text = json.dumps(frontier_figure(main_table(scores), scores, make_training_points(scores), "kl_exact"))
    text += json.dumps(dynamics_figures(make_dynamics(), labels))
    used = {text[at : at + 7] for at in range(len(text)) if text[at] == "#"}
    assert len(used) > len(labels) and {colour.upper() for colour in used} <= set(DARK)


def test_what_is_no_number_is_left_out_of_a_curve_and_of_the_range_of_its_panels(labels):
    rows = [{"step": step, "loss": loss} for step, loss in enumerate([1.0, math.inf, 3.0])]
    runs = {"dpo/beta~0.1/seed~0": rows, "ipo/beta~0.1/seed~0": [{"step": 0, "loss": math.nan}]}
    (panel,) = dynamics_figures(runs, labels | {"ipo": "IPO"})["loss"]
    (trace,) = panel["figure"]["data"]
    assert list(trace["y"]) == [1.0, None, 3.0]
    assert list(panel["figure"]["layout"]["yaxis"]["range"]) == pytest.approx([0.9, 3.1])
    assert [row.get("loss") for row in endings(runs, labels | {"ipo": "IPO"})] == [3.0, None]
