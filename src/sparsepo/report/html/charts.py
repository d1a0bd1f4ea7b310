"""The charts of the page: the specifications of `figures`, which the browser draws in the colours of its theme."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from sparsepo.report.figures.curves import QUANTITIES, Curve
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
    return _rounded(spec) | {"background": None}


def last_values(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Where every curve ends, one row per setting."""
    columns = [column for quantity in QUANTITIES for column in quantity.columns.values()]
    return [
        {"method": curve.label, "setting": curve.setting}
        | {name: rounded(curve.running_mean(name).iloc[-1]) for name in columns if name in curve.means}
        for curve in curves
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return rounded(value) if isinstance(value, float) else value
