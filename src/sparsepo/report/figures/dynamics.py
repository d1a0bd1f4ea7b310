"""Figures of what happens during training: quantities of `dynamics.jsonl` over the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from sparsepo.report.figures.curves import Curve, Dynamics, Quantity, setting_curves, setting_order
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
    curves = [curve for curve in setting_curves(dynamics, labels) if curve.has(SPARSITY[0])]
    if not curves:
        return _sentence("No method of this task has masks.")
    return _method_panels(curves, SPARSITY, alt.Scale(domain=[-0.03, 1.03]))


def plot_token_kl(dynamics: Dynamics, labels: Mapping[str, str]) -> alt.TopLevelMixin:
    """KL(π‖ref) summed over a response (nats, mean over pairs) over steps, a panel for each method.

    The axis is logarithmic where the curves end more than two decades apart.
    """
    curves = [curve for curve in setting_curves(dynamics, labels) if curve.has(TOKEN_KL)]
    if not curves:
        return _sentence("No run of this task has logged its KL.")
    ends = [curve.running_mean(column).iloc[-1] for curve in curves for column in TOKEN_KL.columns.values()]
    positive = [end for end in ends if end > 0]
    top = max(row["value"] for curve in curves for row in curve.raw_points(TOKEN_KL))
    if positive and max(positive) > 100 * min(positive):
        scale = alt.Scale(type="log", domain=[min(positive) / 10, top])  # step 0 has KL 0, give or take rounding
    else:
        scale = alt.Scale(domain=[0, top])
    return _method_panels(curves, [TOKEN_KL], scale)


def beta_panels(curves: Sequence[Curve], labels: Mapping[str, str], quantity: Quantity) -> dict[str, alt.LayerChart]:
    """β -> the lines of all methods at it, in the colours of the methods; all panels share their vertical axis."""
    points: dict[str, list[dict[str, Any]]] = {}
    for curve in sorted(curves, key=lambda curve: setting_order(curve.beta)):
        if curve.has(quantity):
            lines = curve.points(quantity, most=60)  # what a small panel can show
            every = max(1, len(lines) // len(quantity.columns) // _MARKS)
            points.setdefault(curve.beta, []).extend(row | {"marker": at % every == 0} for at, row in enumerate(lines))
    values = [row["value"] for rows in points.values() for row in rows]
    margin = 0.05 * (max(values) - min(values)) or 0.05
    scale = alt.Scale(domain=[min(values) - margin, max(values) + margin], nice=False, zero=False)
    colour, shape, _ = method_encodings(labels)
    y = alt.Y("value:Q", title=quantity.axis, scale=scale)
    return {beta: _panel(rows, y, colour, shape) for beta, rows in points.items()}


def _method_panels(curves: Sequence[Curve], quantities: Sequence[Quantity], scale: alt.Scale) -> alt.VConcatChart:
    """Four methods in a row and, in the rows below them, the same ones by the further quantities."""
    by_method: dict[str, list[Curve]] = {}
    for curve in curves:
        by_method.setdefault(curve.label, []).append(curve)
    labels, settings = list(by_method), sorted({curve.setting for curve in curves}, key=setting_order)
    colour = alt.Color("setting:N", legend=alt.Legend(**_LEGEND))
    colour = colour.scale(domain=settings, range=setting_colours(len(settings)))
    columns = min(_COLUMNS, len(labels))
    rows = []
    for first in range(0, len(labels), columns):
        for quantity in quantities:
            panels = []
            for label in labels[first : first + columns]:
                y = alt.Y("value:Q", title=None if panels else quantity.axis, scale=scale, axis=alt.Axis(tickCount=5))
                panel = _panel(_rows(by_method[label], quantity, scale), y, colour)
                panels.append(panel.properties(title=label if quantity is quantities[0] else "", height=_HEIGHT,
                                               width=(WIDTH + _GAP) / columns - _GAP - 8))  # fmt: skip
            rows.append(alt.hconcat(*panels, spacing=_GAP))
    return alt.vconcat(*rows, spacing=_GAP)


def _rows(curves: Sequence[Curve], quantity: Quantity, scale: alt.Scale) -> list[dict[str, Any]]:
    """The running means and, of few settings, the values themselves; without what a logarithmic axis cannot show."""
    rows = [row for curve in curves for row in curve.points(quantity, most=300)]
    if len(curves) <= _FEW:
        rows += [row | {"raw": True} for curve in curves for row in curve.raw_points(quantity)]
    return [row for row in rows if row["value"] > 0] if scale.type == "log" else rows


def _panel(rows: list[dict[str, Any]], y: alt.Y, colour: alt.Color, shape: alt.Shape | None = None) -> alt.LayerChart:
    """Lines with the values behind them and, where there is a `shape`, markers that can be pointed at."""
    dash = alt.StrokeDash("side:N", legend=alt.Legend(**_LEGEND))
    dash = dash.scale(domain=["chosen", "rejected"], range=[DASHES[0], (3, 1.5)])
    steps = [row["step"] for row in rows]
    scale = alt.Scale(domain=[min(steps), max(*steps, min(steps) + 1)])  # also while all methods are hidden
    x = alt.X("step:Q", title="optimiser step", scale=scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart().encode(x, y, colour, detail="line:N")
    lines = base.mark_line(strokeWidth=1.6 if shape else 1.2, clip=True).encode(dash).transform_filter("!datum.raw")
    if not shape:
        raw = base.mark_line(strokeWidth=0.4, opacity=0.3, clip=True).transform_filter("datum.raw")
        return alt.layer(raw, lines, data=pd.DataFrame(rows))
    points = base.mark_point(filled=True, size=40, clip=True).encode(
        shape,
        opacity=alt.condition("datum.marker", alt.value(1), alt.value(0)),
        tooltip=[alt.Tooltip("line:N", title="title"), "step:Q", alt.Tooltip("value:Q", format=".4~g")],
    )
    return alt.layer(lines, points, data=pd.DataFrame(rows))


def _sentence(text: str) -> alt.Chart:
    """A figure that says why there is nothing to see."""
    return alt.Chart(pd.DataFrame([{}])).mark_text(text=text, color=QUIET).properties(width=WIDTH, height=60)
