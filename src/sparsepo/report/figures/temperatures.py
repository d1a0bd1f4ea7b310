"""What is measured of generated responses over the sampling temperature."""

import altair as alt
import pandas as pd

from sparsepo.report.figures.marks import interval_lines
from sparsepo.report.figures.style import WIDTH, method_style
from sparsepo.report.tables.metrics import in_order, metric_of

_COLUMNS = 3
_SHIFT = 0.006  # of the width, between methods at one temperature, so that their intervals can be told apart


def plot_temperatures(frame: pd.DataFrame) -> alt.ConcatChart:
    """A panel for each metric, with the intervals of the table.

    frame: the comparison as `comparison_frame` makes it; rows whose variant is a temperature are drawn.
    """
    rows = frame.assign(temperature=pd.to_numeric(frame["variant"], errors="coerce")).dropna(subset=["temperature"])
    metrics = in_order([name for name in rows if f"{name}_low" in rows and rows[name].notna().any()])
    columns = min(_COLUMNS, len(metrics))
    panels = [_panel(rows, name).properties(width=(WIDTH + 45) / columns - 45, height=110) for name in metrics]
    return alt.concat(*panels, columns=columns)


def _panel(rows: pd.DataFrame, name: str) -> alt.LayerChart:
    rows = rows.dropna(subset=[name])
    styles = {label: method_style(method) for method, label in zip(rows["method"], rows["label"], strict=True)}
    place = rows["label"].map(list(styles).index) - (len(styles) - 1) / 2
    width = rows["temperature"].max() - rows["temperature"].min() or 1.0
    data = rows[["label"]].assign(x=rows["temperature"] + place * _SHIFT * width, mean=rows[name])
    data = data.assign(low=rows[f"{name}_low"], high=rows[f"{name}_high"])
    scale = alt.Scale(zero=False, nice=False, padding=8)
    x = alt.X("x:Q", title="temperature", scale=scale, axis=alt.Axis(tickCount=5))
    return interval_lines(data, x, "", styles).properties(title=metric_of(name).label)
