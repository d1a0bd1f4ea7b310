"""The charts of the page as specifications: what a browser is told to draw, and the colours of the dark theme."""

import json

import pytest

from sparsepo.methods.registry import METHODS
from sparsepo.report.figures.curves import QUANTITIES, training_curves
from sparsepo.report.figures.dynamics import quantity_chart
from sparsepo.report.figures.frontier import frontier_plot
from sparsepo.report.figures.style import DARK_PAGE, INK, PALETTE, luminance, method_style, on_dark
from sparsepo.report.html.charts import DARK, beta_specs, last_values, page_spec
from sparsepo.report.tables.grid import grid_frame

LABELS = {"dpo": "DPO", "mapo": "MaPO", "simpo": "SimPO"}


def _steps(count, **values):
    """Rows in which each quantity is a number, or a function of the step."""
    return [
        {"step": step} | {name: value(step) if callable(value) else value for name, value in values.items()}
        for step in range(count)
    ]


def _last(dynamics, labels=LABELS):
    return last_values(training_curves(dynamics, labels))


@pytest.fixture(name="specs")
def _specs(make_scores, make_training_points, make_dynamics, labels):
    """The frontier and a panel of the page."""
    scores = make_scores(seeds=(0, 1))
    frontier = frontier_plot(grid_frame(scores), scores, make_training_points(scores), "kl_exact").chart()
    panels = beta_specs(training_curves(make_dynamics(), labels)["sparsity_u"], labels, QUANTITIES[0])
    return [page_spec(frontier, 190), *(panel["spec"] for panel in panels)]


# --- specifications


def test_a_specification_is_json_without_nan_and_as_wide_as_its_place(specs):
    for spec in specs:
        assert json.loads(json.dumps(spec, allow_nan=False)) == spec
        assert (spec["width"], spec["height"], spec["background"]) == ("container", 190, None)


def test_every_row_is_of_a_method_and_hidden_methods_are_filtered(specs, labels):
    for spec in specs:
        assert {"name": "hidden", "value": []} in spec["params"]
        assert spec["transform"] == [{"filter": "indexof(hidden, datum.method) < 0"}]
        (rows,) = spec["datasets"].values()
        assert {row["method"] for row in rows} <= {"sft", *labels}
        assert all("data" not in layer for layer in spec["layer"])


def test_numbers_are_shortened_and_a_row_says_nothing_of_what_it_lacks(specs):
    for spec in specs:
        (rows,) = spec["datasets"].values()
        for row in rows:
            assert None not in row.values()
            assert all(len(f"{value:g}".lstrip("-0.").replace(".", "")) <= 4 or "e" in f"{value:g}"
                       for value in row.values() if isinstance(value, float))  # fmt: skip


def test_the_specification_is_the_same_each_time(make_scores):
    first, second = (
        page_spec(frontier_plot(grid_frame(scores), scores, {}, "kl_exact").chart(), 400)
        for scores in (make_scores(), make_scores())
    )
    assert first == second


# --- where the curves end


def test_the_last_values_are_those_of_a_setting():
    ends_at_81 = _steps(10, loss=lambda step: float(step**2), forward_kl_chosen=float, forward_kl_rejected=3.0)
    runs = {"dpo/beta~0.1/seed~0": ends_at_81, "dpo/beta~0.5/seed~0": _steps(4, loss=0.123456)}
    assert _last(runs) == [
        {"method": "DPO", "setting": "β=0.1", "forward_kl_chosen": 9.0, "forward_kl_rejected": 3.0, "loss": 81.0},
        {"method": "DPO", "setting": "β=0.5", "loss": 0.1235},
    ]


def test_the_last_values_are_the_means_of_seeds_and_no_row_of_validation():
    runs = {f"dpo/beta~0.1/seed~{seed}": _steps(3, loss=1.0 + seed) for seed in (0, 1)}
    runs["dpo/beta~0.1/seed~0"].append({"step": 3, "validation_loss": 5.0})
    assert _last(runs) == [{"method": "DPO", "setting": "β=0.1", "loss": 1.5}]


def test_the_last_values_are_where_the_lines_end(make_dynamics, labels):
    curves = training_curves(make_dynamics(seeds=(0, 1), steps=300), labels)
    rows = {(row["method"], row["setting"]): row for row in last_values(curves)}
    assert len(rows) == 16
    for quantity in [quantity for quantity in QUANTITIES if quantity.name in curves]:
        ends = quantity_chart(curves[quantity.name], labels, quantity).data.groupby("line").last()
        for end in ends.to_dict("records"):
            column = quantity.columns[end["side"]]
            assert rows[end["label"], end["setting"]][column] == pytest.approx(end["value"], rel=1e-3)


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


@pytest.mark.parametrize("colour", [*PALETTE, INK, method_style("sft").colour])
def test_every_colour_of_a_figure_stands_out_on_the_dark_page(colour):
    assert _contrast(DARK[colour], DARK_PAGE) >= 4.5


@pytest.mark.parametrize("colour", PALETTE)
def test_a_colour_is_made_no_lighter_than_it_has_to_be(colour):
    dark = on_dark(colour)
    if _contrast(colour, DARK_PAGE) >= 4.5:
        assert dark == colour
    else:
        assert _contrast(dark, DARK_PAGE) < 4.8


def test_no_two_trained_methods_share_a_colour_in_the_dark():
    assert len({DARK[method_style(method).colour] for method in METHODS}) == len(METHODS)


def test_every_colour_of_a_specification_has_a_dark_one(specs, labels):
    text = json.dumps(specs)
    used = {text[at : at + 7] for at in range(len(text)) if text[at] == "#"}
    assert len(used) > len(labels) and used <= set(DARK)
