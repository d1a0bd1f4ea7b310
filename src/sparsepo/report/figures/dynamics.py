"""Figures of what happens during training: quantities of `dynamics.jsonl` over the steps."""

from collections.abc import Mapping

import altair as alt
import numpy as np
import pandas as pd

from sparsepo.report.figures.curves import ROW, Dynamics, Quantity, setting_order, thinned, training_curves
from sparsepo.report.figures.marks import method_encodings
from sparsepo.report.figures.style import DASHES, WIDTH, sentence, setting_colours

SPARSITY = (Quantity("sparsity_u", "", "zeros in m_u"), Quantity("sparsity_d", "", "zeros in m_d"))
TOKEN_KL = Quantity("reverse_kl", "", "KL(π‖ref) (nats)")
_COLUMNS, _GAP, _HEIGHT = 4, 12, 88  # panels in a row; points
_FEW = 6  # settings a method up to which the values themselves are drawn behind their mean
_MARKS = 5  # markers on a line of the page
_LEGEND = {"title": None, "symbolType": "stroke", "symbolSize": 300, "symbolOpacity": 1, "columns": 6}


def plot_sparsity(dynamics: Dynamics, labels: Mapping[str, str]) -> alt.TopLevelMixin:
    """Zeros in m_u, zeros in m_d and KL(π‖ref) of a response over steps, of each method whose masks have zeros.

    Chosen responses stand above rejected ones, with a line for each setting, as in Figures 3 and 7 of arXiv 2410.05102.
    labels: method -> printed name.
    """
    quantities = [*SPARSITY, TOKEN_KL]
    curves = training_curves(dynamics, labels, quantities)
    zeros = [curves[quantity.name] for quantity in SPARSITY if quantity.name in curves]
    shown = list(dict.fromkeys(label for rows in zeros for label in rows.loc[rows["value"] > 0, "label"]))
    if not shown:
        return sentence("No method of this task has masks with zeros.")
    curves = {name: rows[rows["label"].isin(shown)] for name, rows in curves.items()}
    scales = dict.fromkeys((quantity.name for quantity in SPARSITY), alt.Scale(domain=[-0.03, 1.03]))
    scales |= {TOKEN_KL.name: _kl_scale(curves[TOKEN_KL.name])} if TOKEN_KL.name in curves else {}
    colour, blocks = _setting_colour(pd.concat(curves.values())), []
    for label in shown:
        rows = []
        for side in ("chosen", "rejected"):
            panels = []
            for quantity in (quantity for quantity in quantities if quantity.name in curves):
                own = curves[quantity.name]
                own = own[(own["label"] == label) & (own["side"] == side)]
                title, y_title = quantity.axis if side == "chosen" else "", "" if panels else side
                if not own.empty:
                    panels.append(_panel(own, scales[quantity.name], colour, y_title, title, len(quantities)))
            rows.append(alt.hconcat(*panels, spacing=_GAP))
        blocks.append(alt.vconcat(*rows, spacing=_GAP, title=label))
    return alt.vconcat(*blocks)


def plot_token_kl(dynamics: Dynamics, labels: Mapping[str, str]) -> alt.TopLevelMixin:
    """KL(π‖ref) summed over a response (nats, mean over pairs) over steps, a panel for each method.

    The axis is logarithmic where the curves end more than two decades apart.
    """
    curves = training_curves(dynamics, labels, [TOKEN_KL])
    if not curves:
        return sentence("No run of this task has logged its KL.")
    rows = curves[TOKEN_KL.name]
    labelled, scale, colour = dict(list(rows.groupby("label", sort=False))), _kl_scale(rows), _setting_colour(rows)
    columns, panels = min(_COLUMNS, len(labelled)), []
    for label, own in labelled.items():
        y_title = "" if len(panels) % columns else TOKEN_KL.axis
        panels.append(_panel(own, scale, colour, y_title, label, columns))
    starts = range(0, len(panels), columns)
    return alt.vconcat(*(alt.hconcat(*panels[at : at + columns], spacing=_GAP) for at in starts), spacing=_GAP)


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


def _kl_scale(rows: pd.DataFrame) -> alt.Scale:
    """From 0, or logarithmic where the curves end more than two decades apart."""
    ends = rows.groupby("line")["mean"].last()
    lowest, top = ends[ends > 0].min(), rows["value"].max()
    if ends.max() > 100 * lowest:
        return alt.Scale(type="log", domain=[lowest / 10, top])  # step 0 has KL 0, give or take rounding
    return alt.Scale(domain=[0, top])


def _setting_colour(rows: pd.DataFrame) -> alt.Color:
    settings = sorted(rows["setting"].unique(), key=setting_order)
    colour = alt.Color("setting:N", legend=alt.Legend(**_LEGEND))
    return colour.scale(domain=settings, range=setting_colours(len(settings)))


def _panel(
    curves: pd.DataFrame, scale: alt.Scale, colour: alt.Color, y_title: str, title: str, columns: int
) -> alt.LayerChart:
    """One of so many panels in a row: the running means and, behind those of few settings, the values.

    Without what a logarithmic axis cannot show.
    """
    rows = thinned(curves, most=300)
    if curves["setting"].nunique() <= _FEW:
        rows = pd.concat([rows, curves[ROW].assign(raw=True)])
    if scale.type == "log":
        rows = rows[rows["value"] > 0]
    y = alt.Y("value:Q", title=y_title or None, scale=scale, axis=alt.Axis(tickCount=5))
    lines, base = _lines(rows, y, colour, strokeWidth=1.2)
    raw = base.mark_line(strokeWidth=0.4, opacity=0.3, clip=True).transform_filter("datum.raw")
    width = (WIDTH + _GAP) / columns - _GAP - 8
    return alt.layer(raw, lines, data=rows).properties(title=title, height=_HEIGHT, width=width)


def _lines(rows: pd.DataFrame, y: alt.Y, colour: alt.Color, **look: float) -> tuple[alt.Chart, alt.Chart]:
    """A line for each setting and side, and what it shares with other marks; dashes only where there are both sides."""
    dash = alt.StrokeDash("side:N", legend=alt.Legend(**_LEGEND))
    dash = dash.scale(domain=["chosen", "rejected"], range=[DASHES[0], (3, 1.5)])
    first, last = int(rows["step"].min()), int(rows["step"].max())
    scale = alt.Scale(domain=[first, max(last, first + 1)])  # also while all methods are hidden
    x = alt.X("step:Q", title="optimiser step", scale=scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart().encode(x, y, colour, detail="line:N")
    lines = base.mark_line(clip=True, **look).transform_filter("!datum.raw")
    return lines.encode(dash) if rows["side"].nunique() > 1 else lines, base
