"""The charts of the page: the specifications of `figures`, which the browser draws in the colours of its theme."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from sparsepo.report.figures.curves import Quantity, setting_order
from sparsepo.report.figures.dynamics import quantity_chart
from sparsepo.report.figures.style import DARK_PAGE, GRID, INK, PALETTE, SFT_STYLE, WHITE, on_dark, to_spec
from sparsepo.report.html.packing import rounded

DARK = {colour: on_dark(colour) for colour in PALETTE}
DARK |= {INK: "#E6E6E6", GRID: "#394149", WHITE: DARK_PAGE, SFT_STYLE.colour: WHITE}
"""Colours of the charts -> what replaces them on a dark page."""
_ZOOM = alt.selection_interval(bind="scales", zoom="wheel![event.shiftKey]")


def page_spec(chart: alt.LayerChart, height: int) -> dict[str, Any]:
    """The chart as wide as its place in the page. Its parameter `hidden` lists the methods that are not drawn."""
    spec = to_spec(chart.add_params(_ZOOM).properties(width="container", height=height), size=12)
    spec["params"].append({"name": "hidden", "value": []})
    spec["transform"] = [{"filter": "indexof(hidden, datum.method) < 0"}]
    for name, rows in spec["datasets"].items():
        spec["datasets"][name] = [{key: value for key, value in row.items() if value is not None} for row in rows]
    return rounded(spec) | {"background": None}


def beta_specs(curve: pd.DataFrame, labels: Mapping[str, str], quantity: Quantity) -> list[dict[str, Any]]:
    """A panel for each β, the smallest first: its `title`, and its `spec`, which differs in the data alone."""
    spec = page_spec(quantity_chart(curve, labels, quantity), 190)
    (name,) = spec["datasets"]
    rows: dict[str, list[dict]] = {}
    for row in spec["datasets"][name]:
        rows.setdefault(row["setting"].split(", ")[0], []).append(row)
    return [
        {"title": beta, "spec": spec | {"datasets": {name: rows[beta]}}} for beta in sorted(rows, key=setting_order)
    ]


def last_values(curves: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Where every curve ends, one row per setting."""
    rows: dict[int, dict[str, Any]] = {}
    for curve in curves.values():
        ends = curve.groupby(["place", "label", "setting", "column"])["mean"].last()
        for (place, label, setting, column), end in ends.items():
            rows.setdefault(place, {"method": label, "setting": setting})[column] = rounded(end)
    return [rows[place] for place in sorted(rows)]
