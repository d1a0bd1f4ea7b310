"""What sampling temperature does: each metric of generated responses over it, a line a method."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from sparsepo.report.metrics import in_order, metric_of
from sparsepo.report.style import RC, method_style, new_figure

_COLUMNS = 3
_SPREAD = 0.006  # of the width, between methods at one temperature, so that their intervals can be told apart


@rc_context(RC)
def plot_temperatures(frame: pd.DataFrame) -> Figure:
    """A panel a metric, with the intervals of the table.

    frame: the comparison table as `comparison_frame` makes it; rows whose variant is a temperature are drawn.
    """
    rows = frame.assign(temperature=pd.to_numeric(frame["variant"], errors="coerce")).dropna(subset=["temperature"])
    metrics = in_order([name for name in rows if f"{name}_low" in rows and rows[name].notna().any()])
    columns = min(_COLUMNS, len(metrics))
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
