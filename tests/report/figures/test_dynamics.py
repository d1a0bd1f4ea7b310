import numpy as np
import pytest

from sparsepo.report.figures.dynamics import plot_sparsity, plot_token_kl


def _rows(sparsity, kl, steps=60):
    quantities = {"sparsity_u": sparsity, "sparsity_d": sparsity, "reverse_kl": kl}
    quantities["forward_kl"] = 2 * kl
    sides = {f"{name}_{s}": v for name, v in quantities.items() for s in ("chosen", "rejected")}
    return [{"step": step} | sides for step in range(steps)]


def _without_masks(rows):
    return [{k: v for k, v in row.items() if not k.startswith("sparsity")} for row in rows]


def _titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible() and axes.get_title()]


def _heights(axes):
    """The level of each line of `axes`, all of them being flat."""
    return {round(float(np.mean(line.get_ydata())), 6) for line in axes.lines}


def test_seeds_are_averaged_and_betas_are_not():
    dynamics = {
        "mapo/beta~0.1/seed~0": _rows(0.2, 1.0),
        "mapo/beta~0.1/seed~1": _rows(0.4, 1.0),
        "mapo/beta~0.5/seed~0": _rows(0.9, 1.0),
    }
    figure = plot_sparsity(dynamics)
    assert [_heights(axes) for axes in figure.axes] == [{0.3, 0.9}, {0.3, 0.9}]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["β=0.1", "β=0.5", "chosen", "rejected"]


def test_sparsity_shows_only_methods_that_log_masks():
    dynamics = {
        "dpo/beta~0.1/seed~0": _without_masks(_rows(0.2, 1.0)),
        "mapo/beta~0.1/seed~0": _rows(0.2, 1.0),
    }
    assert _titles(plot_sparsity(dynamics, {"mapo": "MaPO", "dpo": "DPO"})) == ["MaPO"]
    assert _titles(plot_token_kl(dynamics)) == ["dpo", "mapo"]


def test_without_masks_the_figure_says_so(assert_renders_alike):
    runs = {"dpo/beta~0.1/seed~0": _without_masks(_rows(0.2, 1.0))}
    assert "masks" in plot_sparsity(runs).texts[0].get_text()
    assert_renders_alike(lambda: plot_sparsity(runs))


def test_betas_are_listed_by_size_and_a_varying_parameter_is_named():
    runs = ["tdpo2/alpha~0.3-beta~10/seed~0", "tdpo2/alpha~0.7-beta~10/seed~0"]
    runs += ["tdpo2/alpha~0.3-beta~2/seed~0", "dpo/beta~0.1/seed~0", "simpo/beta~2-gamma~1/seed~0"]
    figure = plot_token_kl({run: _rows(0.2, 1.0) for run in runs})
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    settings = ["β=0.1", "β=2", "β=2, α=0.3", "β=10, α=0.3", "β=10, α=0.7"]
    assert names == [*settings, "chosen", "rejected"]


@pytest.mark.parametrize(("ends", "scale"), [((0.1, 9.0), "linear"), ((0.1, 11.0), "log")])
def test_the_kl_axis_is_logarithmic_beyond_two_decades(ends, scale):
    runs = {f"dpo/beta~{kl}/seed~0": _rows(0.2, kl) for kl in ends}
    assert plot_token_kl(runs).axes[0].get_yscale() == scale


def test_the_direction_chooses_the_kl():
    runs = {"dpo/beta~0.1/seed~0": _rows(0.2, 1.5)}
    for direction, level in (("reverse", 1.5), ("forward", 3.0)):
        figure = plot_token_kl(runs, direction=direction)
        assert _heights(figure.axes[0]) == {level}
    assert figure.axes[0].get_ylabel() == "KL(ref‖π) (nats)"


def test_more_than_four_methods_wrap_into_further_rows():
    figure = plot_token_kl({f"m{number}/beta~0.1/seed~0": _rows(0.2, 1.0) for number in range(6)})
    places = [axes.get_subplotspec() for axes in figure.axes if axes.get_visible()]
    assert [(p.rowspan.start, p.colspan.start) for p in places] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)
    ]  # fmt: skip


def test_smoothing_keeps_a_jump_near_its_step():
    rows = _rows(0.0, 1.0, 200)[:100] + _rows(1.0, 1.0, 200)[100:]
    axes = plot_sparsity({"mapo/beta~0.1/seed~0": rows}).axes[0]
    smooth = next(line for line in axes.lines if line.get_linewidth() > 1)
    steps, values = smooth.get_data()
    assert values[steps < 90].max() == 0.0 and values[steps > 110].min() == 1.0
    assert 0.0 < values[97] < 1.0  # the window looks both ways


def test_dynamics_are_the_same_bytes_each_time(make_dynamics, labels, assert_renders_alike):
    dynamics = make_dynamics(seeds=(0, 1), steps=40)
    assert_renders_alike(lambda: plot_sparsity(dynamics, labels))
    assert_renders_alike(lambda: plot_token_kl(dynamics, labels))


def test_rows_of_validation_are_neither_drawn_nor_in_the_way():
    steps = _rows(0.2, 1.0, steps=4)
    validation = [{"step": step, "validation_loss": 0.7} for step in (0, 1.5)]
    runs = {"mapo/beta~0.1/seed~0": [validation[0], *steps[:2], validation[1], *steps[2:]]}
    for plot in (plot_sparsity, plot_token_kl):
        lines = plot(runs).axes[0].lines
        assert lines and all(list(line.get_xdata()) == [0, 1, 2, 3] for line in lines)
