"""Figures of what happens during training: quantities of `dynamics.jsonl` over the steps."""

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from sparsepo.report.figures.curves import ROW, Dynamics, Quantity, setting_order, thinned, training_curves
from sparsepo.report.figures.marks import method_encodings
from sparsepo.report.figures.style import DASHES, QUIET, WIDTH, setting_colours

SPARSITY = (Quantity("sparsity_u", "", "zeros in m_u"), Quantity("sparsity_d", "", "zeros in m_d"))
TOKEN_KL = Quantity("reverse_kl", "", "KL(π‖ref) (nats)")
_COLUMNS, _GAP, _HEIGHT = 4, 12, 88  # panels in a row; points
_FEW = 6  # settings a method up to which the values themselves are drawn behind their mean
_MARKS = 5  # markers on a line of the page
_LEGEND = {"title": None, "symbolType": "stroke", "symbolSize": 300, "symbolOpacity": 1, "columns": 6}


def plot_sparsity(dynamics: Dynamics, labels: Mapping[str, str]) -> alt.TopLevelMixin:
    """Share of exact zeros in m_u and m_d over steps, a column for each method that logs masks.

    labels: method -> printed name.
    """
    curves = training_curves(dynamics, labels, SPARSITY)
    if SPARSITY[0].name not in curves:
        return _sentence("No method of this task has masks.")
    return _method_panels(curves, SPARSITY, alt.Scale(domain=[-0.03, 1.03]))


def plot_token_kl(dynamics: Dynamics, labels: Mapping[str, str]) -> alt.TopLevelMixin:
    """KL(π‖ref) summed over a response (nats, mean over pairs) over steps, a panel for each method.

    The axis is logarithmic where the curves end more than two decades apart.
    """
    curves = training_curves(dynamics, labels, [TOKEN_KL])
    if not curves:
        return _sentence("No run of this task has logged its KL.")
    rows = curves[TOKEN_KL.name]
    ends = rows.groupby("line")["mean"].last()
    lowest, top = ends[ends > 0].min(), rows["value"].max()
    if ends.max() > 100 * lowest:
        scale = alt.Scale(type="log", domain=[lowest / 10, top])  # step 0 has KL 0, give or take rounding
    else:
        scale = alt.Scale(domain=[0, top])
    return _method_panels(curves, [TOKEN_KL], scale)


def quantity_chart(rows: pd.DataFrame, labels: Mapping[str, str], quantity: Quantity) -> alt.LayerChart:
    """The lines of all settings in the colours of their methods; the page draws it once for each β."""
    rows = thinned(rows, most=60)  # what a small panel can show
    points = rows.groupby(["method", "setting"])["step"]
    every = np.maximum(1, points.transform("size") // len(quantity.columns) // _MARKS)
    rows = rows.assign(marker=points.cumcount() % every == 0)
    margin = 0.05 * (rows["value"].max() - rows["value"].min()) or 0.05
    domain = [rows["value"].min() - margin, rows["value"].max() + margin]
    colour, shape, _ = method_encodings(labels)
    y = alt.Y("value:Q", title=quantity.axis, scale=alt.Scale(domain=domain, nice=False, zero=False))
    lines, base = _lines(rows, y, colour, strokeWidth=1.6)
    points = base.mark_point(filled=True, size=40, clip=True).encode(
        shape,
        opacity=alt.condition("datum.marker", alt.value(1), alt.value(0)),
        tooltip=[alt.Tooltip("line:N", title="title"), "step:Q", alt.Tooltip("value:Q", format=".4~g")],
    )
    return alt.layer(lines, points, data=rows)


def _method_panels(
    curves: Mapping[str, pd.DataFrame], quantities: Sequence[Quantity], scale: alt.Scale
) -> alt.VConcatChart:
    """Four methods in a row and, in the rows below them, the same ones by the further quantities."""
    shown = curves[quantities[0].name]
    labels, settings = list(shown["label"].unique()), sorted(shown["setting"].unique(), key=setting_order)
    colour = alt.Color("setting:N", legend=alt.Legend(**_LEGEND))
    colour = colour.scale(domain=settings, range=setting_colours(len(settings)))
    columns = min(_COLUMNS, len(labels))
    rows = []
    for first in range(0, len(labels), columns):
        for quantity in quantities:
            panels = []
            for label in labels[first : first + columns]:
                y = alt.Y("value:Q", title=None if panels else quantity.axis, scale=scale, axis=alt.Axis(tickCount=5))
                own = curves[quantity.name][curves[quantity.name]["label"] == label]
                panel = _method_panel(own, y, colour, log=scale.type == "log")
                panels.append(panel.properties(title=label if quantity is quantities[0] else "", height=_HEIGHT,
                                               width=(WIDTH + _GAP) / columns - _GAP - 8))  # fmt: skip
            rows.append(alt.hconcat(*panels, spacing=_GAP))
    return alt.vconcat(*rows, spacing=_GAP)


def _method_panel(curves: pd.DataFrame, y: alt.Y, colour: alt.Color, log: bool) -> alt.LayerChart:
    """The running means and, behind those of few settings, the values; without what a log axis cannot show."""
    rows = thinned(curves, most=300)
    if curves["setting"].nunique() <= _FEW:
        rows = pd.concat([rows, curves[ROW].assign(raw=True)])
    if log:
        rows = rows[rows["value"] > 0]
    lines, base = _lines(rows, y, colour, strokeWidth=1.2)
    raw = base.mark_line(strokeWidth=0.4, opacity=0.3, clip=True).transform_filter("datum.raw")
    return alt.layer(raw, lines, data=rows)


def _lines(rows: pd.DataFrame, y: alt.Y, colour: alt.Color, **look: float) -> tuple[alt.Chart, alt.Chart]:
    """A line for each setting and side, and what it shares with other marks."""
    dash = alt.StrokeDash("side:N", legend=alt.Legend(**_LEGEND))
    dash = dash.scale(domain=["chosen", "rejected"], range=[DASHES[0], (3, 1.5)])
    first, last = int(rows["step"].min()), int(rows["step"].max())
    scale = alt.Scale(domain=[first, max(last, first + 1)])  # also while all methods are hidden
    x = alt.X("step:Q", title="optimiser step", scale=scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart().encode(x, y, colour, detail="line:N")
    return base.mark_line(clip=True, **look).encode(dash).transform_filter("!datum.raw"), base


def _sentence(text: str) -> alt.Chart:
    """A figure that says why there is nothing to see."""
    return alt.Chart(pd.DataFrame([{}])).mark_text(text=text, color=QUIET).properties(width=WIDTH, height=60)
