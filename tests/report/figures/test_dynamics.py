import math

import pandas as pd
import pytest

from sparsepo.report.figures.curves import QUANTITIES, training_curves
from sparsepo.report.figures.dynamics import plot_sparsity, plot_token_kl
from sparsepo.report.figures.style import method_style
from sparsepo.report.html.charts import beta_specs

LABELS = {"dpo": "DPO", "mapo": "MaPO", "simpo": "SimPO", "tdpo2": "TDPO v2"}
LOSS = next(quantity for quantity in QUANTITIES if quantity.name == "loss")
KL = next(quantity for quantity in QUANTITIES if quantity.name == "reverse_kl")


def _rows(sparsity, kl, steps=60):
    quantities = {"sparsity_u": sparsity, "sparsity_d": sparsity, "reverse_kl": kl}
    sides = {f"{name}_{s}": v for name, v in quantities.items() for s in ("chosen", "rejected")}
    return [{"step": step} | sides for step in range(steps)]


def _without_masks(rows):
    return [{k: v for k, v in row.items() if not k.startswith("sparsity")} for row in rows]


def _steps(count, **values):
    """Rows in which each quantity is a number, or a function of the step."""
    return [
        {"step": step} | {name: value(step) if callable(value) else value for name, value in values.items()}
        for step in range(count)
    ]


def _specs(dynamics, quantity=LOSS, labels=LABELS):
    """beta -> the specification of the page's panel, and its rows."""
    panels = beta_specs(training_curves(dynamics, labels)[quantity.name], labels, quantity)
    return {panel["title"]: (panel["spec"], pd.DataFrame(*panel["spec"]["datasets"].values())) for panel in panels}


def _panels(dynamics, quantity=LOSS):
    return {beta: rows for beta, (_, rows) in _specs(dynamics, quantity).items()}


def _lines(rows):
    """Line -> its values, in the order of the steps."""
    return {line: group.sort_values("step")["value"].tolist() for line, group in rows.groupby("line", sort=False)}


# --- for print: a panel a method


def test_seeds_are_averaged_and_betas_are_not(read_panels, legend_names):
    dynamics = {
        "mapo/beta~0.1/seed~0": _rows(0.2, 1.0),
        "mapo/beta~0.1/seed~1": _rows(0.4, 1.0),
        "mapo/beta~0.5/seed~0": _rows(0.9, 1.0),
    }
    chart = plot_sparsity(dynamics, LABELS)
    panels = read_panels(chart)
    for panel in (panels[0], panels[1], panels[3], panels[4]):
        assert {round(value, 6) for value in panel.rows["value"]} == {0.3, 0.9}
    assert legend_names(chart) == ["β=0.1", "β=0.5"]


def test_chosen_stands_above_rejected_each_with_both_masks_and_the_kl(read_panels):
    values = {"sparsity_u": 0.1, "sparsity_d": 0.2, "reverse_kl": 0.3}
    row = {f"{name}_chosen": v for name, v in values.items()} | {
        f"{name}_rejected": 5 * v for name, v in values.items()
    }
    panels = read_panels(plot_sparsity({"mapo/beta~0.1/seed~0": [{"step": step} | row for step in range(9)]}, LABELS))
    assert [panel.title for panel in panels] == ["zeros in m_u", "zeros in m_d", "KL(π‖ref) (nats)", "", "", ""]
    assert [panel.axis("y")["title"] for panel in panels] == ["chosen", None, None, "rejected", None, None]
    levels = [round(value, 6) for panel in panels for value in sorted(set(panel.rows["value"]))]
    assert levels == [0.1, 0.2, 0.3, 0.5, 1.0, 1.5]
    dashes = [layer for panel in panels for layer in panel.spec["layer"] if "strokeDash" in layer["encoding"]]
    assert not dashes  # a side has panels of its own


def test_sparsity_shows_only_methods_whose_masks_have_zeros(read_panels):
    dynamics = {"dpo/beta~0.1/seed~0": _without_masks(_rows(0.2, 1.0)), "mapo/beta~0.1/seed~0": _rows(0.2, 1.0)}
    dense = {"tdpo2/beta~0.1/seed~0": _rows(0.0, 1.0)}
    chart = plot_sparsity(dynamics | dense, LABELS)
    assert [block["title"] for block in chart.to_dict()["vconcat"]] == ["MaPO"] and len(read_panels(chart)) == 6
    assert "zeros" in plot_sparsity(dense, LABELS).mark.text
    assert [panel.title for panel in read_panels(plot_token_kl(dynamics, LABELS))] == ["DPO", "MaPO"]


def test_without_masks_the_figure_says_so(assert_renders_alike):
    runs = {"dpo/beta~0.1/seed~0": _without_masks(_rows(0.2, 1.0))}
    assert "masks" in plot_sparsity(runs, LABELS).mark.text
    assert_renders_alike(lambda: plot_sparsity(runs, LABELS))


def test_betas_are_listed_by_size_and_a_varying_parameter_is_named(legend_names):
    runs = ["tdpo2/alpha~0.3-beta~10/seed~0", "tdpo2/alpha~0.7-beta~10/seed~0"]
    runs += ["tdpo2/alpha~0.3-beta~2/seed~0", "dpo/beta~0.1/seed~0", "simpo/beta~2-gamma~1/seed~0"]
    chart = plot_token_kl({run: _rows(0.2, 1.0) for run in runs}, LABELS)
    assert legend_names(chart) == ["β=0.1", "β=2", "β=2, α=0.3", "β=10, α=0.3", "β=10, α=0.7"]


@pytest.mark.parametrize(("ends", "scale"), [((0.1, 9.0), "linear"), ((0.1, 11.0), "log")])
def test_the_kl_axis_is_logarithmic_beyond_two_decades(read_panels, ends, scale):
    runs = {f"dpo/beta~{kl}/seed~0": [*_rows(0.2, 0.0, 1), *_rows(0.2, kl)[1:]] for kl in ends}
    (panel,) = read_panels(plot_token_kl(runs, LABELS))
    assert panel.axis("y")["scale"].get("type", "linear") == scale
    assert (panel.rows["value"] > 0).all() == (scale == "log")


def test_more_than_four_methods_wrap_into_further_rows():
    names = {f"m{number}": f"M{number}" for number in range(6)}
    chart = plot_token_kl({f"{name}/beta~0.1/seed~0": _rows(0.2, 1.0) for name in names}, names)
    assert [len(row.hconcat) for row in chart.vconcat] == [4, 2]


def test_smoothing_keeps_a_jump_near_its_step(read_panels):
    rows = _rows(0.0, 1.0, 200)[:100] + _rows(1.0, 1.0, 200)[100:]
    panel = read_panels(plot_sparsity({"mapo/beta~0.1/seed~0": rows}, LABELS))[0]
    means = panel.rows[panel.rows["raw"].isna() & (panel.rows["side"] == "chosen")].set_index("step")["value"]
    assert means[:89].max() == 0.0 and means[111:].min() == 1.0
    assert 0.0 < means[97] < 1.0  # the window looks both ways


def test_dynamics_are_the_same_bytes_each_time(make_dynamics, labels, assert_renders_alike):
    dynamics = make_dynamics(seeds=(0, 1), steps=40)
    assert_renders_alike(lambda: plot_sparsity(dynamics, labels))
    assert_renders_alike(lambda: plot_token_kl(dynamics, labels))


def test_rows_of_validation_are_neither_drawn_nor_in_the_way(read_panels):
    steps = _rows(0.2, 1.0, steps=4)
    validation = [{"step": step, "validation_loss": 0.7} for step in (0, 1.5)]
    runs = {"mapo/beta~0.1/seed~0": [validation[0], *steps[:2], validation[1], *steps[2:]]}
    for plot in (plot_sparsity, plot_token_kl):
        for panel in read_panels(plot(runs, LABELS)):
            assert sorted(set(panel.rows["step"])) == [0, 1, 2, 3]


# --- for the page: a panel a beta


def test_a_quantity_has_a_panel_for_each_beta_the_smallest_first():
    runs = ["dpo/beta~10/seed~0", "dpo/beta~2/seed~0", "mapo/beta~0.5/seed~0", "mapo/beta~2-form~a/seed~0"]
    runs += ["mapo/beta~2-form~b/seed~0", "simpo/gamma~1/seed~0"]
    panels = _panels({run: _steps(5, loss=1.0) for run in runs})
    assert {beta: list(_lines(rows)) for beta, rows in panels.items()} == {
        "β=0.5": ["MaPO β=0.5"],
        "β=2": ["DPO β=2", "MaPO β=2, form=a", "MaPO β=2, form=b"],
        "β=10": ["DPO β=10"],
        "default": ["SimPO default"],
    }
    assert list(panels) == ["β=0.5", "β=2", "β=10", "default"]


def test_all_panels_of_a_quantity_share_one_axis_that_holds_every_value(make_dynamics, labels):
    dynamics, domains = make_dynamics(betas=("0.01", "0.1", "5")), {}
    for name in training_curves(dynamics, labels):
        specs = _specs(dynamics, next(quantity for quantity in QUANTITIES if quantity.name == name), labels).values()
        (domains[name],) = {tuple(spec["layer"][0]["encoding"]["y"]["scale"]["domain"]) for spec, _ in specs}
        values = [value for _, rows in specs for value in rows["value"]]
        low, high = domains[name]
        assert low < min(values) and max(values) < high
        assert high - low < 1.2 * (max(values) - min(values)) or min(values) == max(values)
    assert len(domains) == 5 and domains["reverse_kl"] != domains["sparsity_u"]


def test_chosen_and_rejected_are_lines_of_their_own_and_what_is_of_the_pair_is_one():
    dynamics = {"dpo/beta~0.1/seed~0": _steps(5, loss=0.5, reverse_kl_chosen=1.0, reverse_kl_rejected=2.0)}
    (rows,) = _panels(dynamics, KL).values()
    assert _lines(rows) == {"DPO β=0.1, chosen": [1.0] * 5, "DPO β=0.1, rejected": [2.0] * 5}
    assert set(rows["side"]) == {"chosen", "rejected"}
    (rows,) = _panels(dynamics).values()
    assert _lines(rows) == {"DPO β=0.1": [0.5] * 5}


def test_a_line_has_the_colour_and_marker_of_its_method(make_dynamics, labels):
    for spec, rows in _specs(make_dynamics(), KL, labels).values():
        encoding = spec["layer"][-1]["encoding"]
        assert encoding["color"]["scale"] == {
            "domain": list(labels.values()),
            "range": [method_style(method).colour for method in labels],
        }
        assert encoding["shape"]["scale"]["range"] == [method_style(method).marker for method in labels]
        marked = rows[rows["marker"]].groupby("line").size()
        assert len(marked) == 2 * len(labels) and marked.between(2, 8).all()


@pytest.mark.parametrize("count", [1, 2, 59, 60, 61, 119, 120, 1000])
def test_a_line_keeps_its_ends_and_has_sixty_points_at_most(count):
    (rows,) = _panels({"dpo/beta~0.1/seed~0": _steps(count, loss=float)}).values()
    steps = rows["step"].tolist()
    assert (steps[0], steps[-1], len(steps)) == (0, count - 1, min(count, 60))
    gaps = {after - before for before, after in zip(steps, steps[1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert steps == sorted(set(steps))


def test_a_line_is_the_mean_over_the_seeds_of_a_setting():
    dynamics = {f"dpo/beta~{beta}/seed~{seed}": _steps(4, loss=level) for beta, seed, level in
                [("0.1", 0, 1.0), ("0.1", 1, 4.0), ("0.5", 0, 7.0)]}  # fmt: skip
    panels = _panels(dynamics)
    assert [_lines(rows) for rows in panels.values()] == [{"DPO β=0.1": [2.5] * 4}, {"DPO β=0.5": [7.0] * 4}]


def test_only_settings_that_logged_a_quantity_have_a_line():
    runs = {"dpo/beta~0.1/seed~0": _steps(3, loss=0.5), "mapo/beta~0.1/seed~0": _steps(3, other=2.0)}
    (rows,) = _panels(runs).values()
    assert set(rows["method"]) == {"dpo"}


def test_infinite_and_missing_values_do_not_stretch_the_axis():
    rows = [{"step": step, "loss": loss} for step, loss in enumerate([1.0, math.inf, 3.0])]
    runs = {"dpo/beta~0.1/seed~0": rows, "mapo/beta~0.1/seed~0": [{"step": 0, "loss": math.nan}]}
    ((spec, rows),) = _specs(runs).values()
    assert spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == pytest.approx([0.9, 3.1])
    assert set(rows["method"]) == {"dpo"} and rows["value"].max() == 3.0
