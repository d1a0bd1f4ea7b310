"""What happens during training: mask sparsity and token KL over the steps, a panel per method."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsepo.report.figures.style import RC, method_style, new_figure
from sparsepo.report.run_names import parse_run, short_params
from sparsepo.report.tables.metrics import in_order, metric_of

Dynamics = Mapping[str, Sequence[Mapping[str, Any]]]
Curves = dict[str, dict[str, pd.DataFrame]]  # method -> setting -> mean over seeds, by step

_COLUMNS = 4
_FEW = 6  # settings a panel up to which the values themselves are drawn behind their mean
_DIRECTIONS = {"reverse": "π‖ref", "forward": "ref‖π"}
_SIDES = {"chosen": "-", "rejected": (0, (3, 1.5))}


@rc_context(RC)
def plot_sparsity(dynamics: Dynamics, labels: Mapping[str, str] | None = None) -> Figure:
    """Share of exact zeros in m_u and m_d over steps, for the methods that log masks.

    `dynamics`: rows of `dynamics.jsonl` by run. `labels`: the printed name of each method.
    """
    found = curves(dynamics, "sparsity_u_chosen")
    if not found:
        return _empty_figure("No method of this task has masks.")
    colours = _setting_colours(found)
    bands = -(-len(found) // _COLUMNS)
    columns = min(len(found), _COLUMNS)
    figure = new_figure(0.8 + 2.7 * bands)
    grid = figure.subplots(2 * bands, columns, sharex=True, sharey=True, squeeze=False)
    for place, (method, settings) in enumerate(found.items()):
        band, column = divmod(place, columns)
        for row, mask in enumerate("ud"):
            axes = grid[2 * band + row, column]
            _draw_sides(axes, settings, f"sparsity_{mask}", colours)
            axes.set_ylim(-0.03, 1.03)
            if column == 0:
                axes.set_ylabel(f"zeros in $m_{mask}$")
        grid[2 * band, column].set_title((labels or {}).get(method, method))
    _finish(figure, grid, len(found), 2, colours)
    return figure


@rc_context(RC)
def plot_token_kl(dynamics: Dynamics, labels: Mapping[str, str] | None = None, direction: str = "reverse") -> Figure:
    """Token KL summed over a response (nats, mean over pairs) over steps, a panel per method.

    `direction`: `reverse` is KL(pi || ref), `forward` is KL(ref || pi). The axis is logarithmic
    where the runs end more than two decades apart.
    """
    found = curves(dynamics, f"{direction}_kl_chosen")
    if not found:
        return _empty_figure("No run of this task has logged its KL.")
    colours = _setting_colours(found)
    columns = min(len(found), _COLUMNS)
    bands = -(-len(found) // columns)
    figure = new_figure(0.8 + 1.5 * bands)
    grid = figure.subplots(bands, columns, sharex=True, sharey=True, squeeze=False)
    for place, (method, settings) in enumerate(found.items()):
        axes = grid[divmod(place, columns)]
        _draw_sides(axes, settings, f"{direction}_kl", colours)
        axes.set_title((labels or {}).get(method, method))
        if place % columns == 0:
            axes.set_ylabel(f"KL({_DIRECTIONS[direction]}) (nats)")
    ends = _positive_ends(found, f"{direction}_kl")
    if ends and max(ends) > 100 * min(ends):
        grid[0, 0].set_yscale("log")
        grid[0, 0].set_ylim(bottom=min(ends) / 10)  # step 0 has KL 0, give or take rounding
    _finish(figure, grid, len(found), 1, colours)
    return figure


def curves(dynamics: Dynamics, needed: str) -> Curves:
    """Mean over seeds by step of each setting's rows, for the runs that logged `needed`."""
    rows: dict[str, dict[tuple, list[pd.DataFrame]]] = {}
    for run, steps in dynamics.items():
        if any(needed in row for row in steps):
            method, params, _ = parse_run(run)
            setting = tuple(sorted(params.items()))
            rows.setdefault(method, {}).setdefault(setting, []).append(pd.DataFrame(list(steps)))
    return {
        method: {text: pd.concat(settings[key]).groupby("step").mean() for key, text in _setting_texts(settings)}
        for method, settings in rows.items()
    }


def _setting_texts(settings: Mapping[tuple, Any]) -> list[tuple[tuple, str]]:
    """Name each setting by beta and by whatever else differs between this method's settings."""
    params = [dict(key) for key in settings]
    names = sorted({name for each in params for name in each} - {"beta"})
    varying = [name for name in names if len({each.get(name) for each in params}) > 1]
    return [(key, short_params(dict(key), ["beta", *varying])) for key in settings]


def _setting_colours(curves: Curves) -> dict[str, Any]:
    """One colour a setting over all panels, from dark to light with growing beta."""
    texts = sorted({text for settings in curves.values() for text in settings}, key=_by_number)
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.82, len(texts)))
    return dict(zip(texts, map(tuple, shades), strict=True))


def _by_number(text: str) -> tuple[float, str]:
    beta = text.split(", ")[0].removeprefix("β=")
    try:
        return float(beta), text
    except ValueError:
        return float("inf"), text


def _draw_sides(axes: Axes, settings: Mapping[str, pd.DataFrame], quantity: str, colours: Mapping[str, Any]) -> None:
    """A running mean over a twentieth of the steps, the values themselves faint behind it.

    Of the mean no more than some 300 points are drawn, which loses nothing and keeps files small.
    """
    width = 1.2 if len(settings) <= _FEW else 0.8
    for setting, frame in settings.items():
        for side, line in _SIDES.items():
            values = frame[f"{quantity}_{side}"].dropna()  # rows of validation have none
            colour = colours[setting]
            if len(settings) <= _FEW:
                axes.plot(values.index, values, color=colour, linewidth=0.4, alpha=0.25)
            mean = smooth(values).iloc[:: max(1, len(values) // 300)]
            axes.plot(mean.index, mean, linestyle=line, color=colour, linewidth=width)


def smooth(values: pd.Series) -> pd.Series:
    return values.rolling(max(1, len(values) // 20), center=True, min_periods=1).mean()


def _positive_ends(curves: Curves, quantity: str) -> list[float]:
    """Where each line ends, zeros left out."""
    ends = [
        float(smooth(frame[f"{quantity}_{side}"].dropna()).iloc[-1])
        for settings in curves.values()
        for frame in settings.values()
        for side in _SIDES
    ]
    return [end for end in ends if end > 0]


def _finish(figure: Figure, grid: Any, panels: int, rows: int, colours: Mapping[str, Any]) -> None:
    """Hide the panels beyond the last, label the steps under the lowest panels, add the legend."""
    columns = grid.shape[1]
    for place in range(grid.shape[0] // rows * columns):
        band, column = divmod(place, columns)
        for row in range(rows):
            axes = grid[rows * band + row, column]
            axes.set_visible(place < panels)
            lowest = place + columns >= panels and row == rows - 1
            axes.tick_params(labelbottom=lowest)
            if lowest:
                axes.set_xlabel("optimiser step")
    handles = [Line2D([], [], color=colour, label=text) for text, colour in colours.items()]
    for side, line in _SIDES.items():
        handles.append(Line2D([], [], color="black", linestyle=line, label=side))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, handlelength=2.4)


def _empty_figure(sentence: str) -> Figure:
    figure = new_figure(1.0)
    figure.text(0.5, 0.5, sentence, ha="center", va="center", color="#555555")
    return figure


TEMPERATURE_COLUMNS = 3
_SPREAD = 0.006  # of the width, between methods at one temperature, so that their intervals can be told apart


@rc_context(RC)
def plot_temperatures(frame: pd.DataFrame) -> Figure:
    """A panel a metric, with the intervals of the table.

    frame: the comparison table as `comparison_frame` makes it; rows whose variant is a temperature are drawn.
    """
    rows = frame.assign(temperature=pd.to_numeric(frame["variant"], errors="coerce")).dropna(subset=["temperature"])
    metrics = in_order([name for name in rows if f"{name}_low" in rows and rows[name].notna().any()])
    columns = min(TEMPERATURE_COLUMNS, len(metrics))
    bands = -(-len(metrics) // columns)
    figure = new_figure(0.7 + 1.9 * bands)
    grid = figure.subplots(bands, columns, squeeze=False)
    for axes, name in zip(grid.flat, metrics, strict=False):
        _draw(axes, rows, name)
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    handles = {line.get_label(): line for line in grid.flat[0].get_lines() if not line.get_label().startswith("_")}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, handlelength=2.4)
    return figure


def _draw(axes, rows: pd.DataFrame, name: str) -> None:
    groups: Mapping[str, pd.DataFrame] = dict(list(rows.groupby("method", sort=False)))
    width = rows["temperature"].max() - rows["temperature"].min() or 1.0
    for place, (method, own) in enumerate(groups.items()):
        style = method_style(method)
        shift = (place - (len(groups) - 1) / 2) * _SPREAD * width
        places, values = own["temperature"] + shift, own[name]
        axes.vlines(places, own[f"{name}_low"], own[f"{name}_high"], color=style.colour, linewidth=0.7, alpha=0.6)
        label = own["label"].iloc[0]
        axes.plot(places, values, style.line, marker=style.marker, markersize=4, color=style.colour, label=label)
    axes.set_title(metric_of(name).label)
    axes.set_xlabel("temperature")
