"""Mean reward over another quantity: settings with intervals, their seeds, points during training, a line a method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from sparsepo.report.figures.label_placement import LABEL_SIZE, place_labels
from sparsepo.report.figures.marks import method_encodings
from sparsepo.report.figures.style import QUIET, WHITE, WIDTH

HEIGHT = 235
PlotRow = dict[str, Any]
"""A datum: `kind` (the layer that draws it: setting, seed, training or line), `method`, `label`, `x`, `y`; bounds
`x_low` ... of a setting, `order` along a line, and `title`, `run`, `reward` and `KL`, which a reader points at."""


@dataclass(frozen=True)
class RewardPlot:
    """labels: method -> printed name. root: whether the x axis is a square root. point_size: of training points."""

    rows: Sequence[PlotRow]
    labels: Mapping[str, str]
    x_title: str
    root: bool = False
    line_opacity: float = 1.0
    point_size: float = 9.0

    def chart(self, scale: float = 1.0) -> alt.LayerChart:
        """The chart without a size; marks are `scale` times as large as in print."""
        colour, shape, dash = method_encodings(self.labels)
        x, y = self._positions()
        hover = [alt.Tooltip(f"{name}:N") for name in ("title", "run", "reward", "KL")]

        def layer(kind: str) -> alt.Chart:
            return alt.Chart().encode(x, y, colour).transform_filter(alt.datum.kind == kind)

        def points(kind: str, size: float, **look: Any) -> alt.Chart:
            return layer(kind).mark_point(size=size * scale**2, clip=True, **look).encode(shape, tooltip=hover)

        interval = layer("setting").mark_rule(opacity=0.5, strokeWidth=scale, clip=True)
        is_sft = alt.datum.method == "sft"
        level = alt.Chart().encode(y, colour).transform_filter((alt.datum.kind == "setting") & is_sft)
        size = alt.condition(is_sft, alt.value(160 * scale**2), alt.value(70 * scale**2))
        line = layer("line").mark_line(strokeWidth=1.4 * scale, opacity=self.line_opacity, clip=True)
        training = layer("training").mark_circle(size=self.point_size * scale**2, opacity=0.35, clip=True)
        layers = [
            line.encode(dash, order="order:Q"),
            level.mark_rule(strokeDash=[1.5, 2], clip=True),
            training.encode(tooltip=hover),
            points("seed", 14, opacity=0.5, strokeWidth=0.8 * scale),
            interval.encode(x="x_low:Q", x2="x_high:Q"),
            interval.encode(y="y_low:Q", y2="y_high:Q"),
            points("setting", 70, filled=True, opacity=1, stroke=WHITE, strokeWidth=0.6).encode(size=size),
        ]
        return alt.layer(*layers, data=pd.DataFrame(self.rows))

    def for_print(self, texts: Mapping[str, str], remarks: Sequence[str]) -> alt.LayerChart:
        """The chart at the width of a page, each of the `texts` beside its marker where there is room.

        texts: `title` of a setting -> text. remarks: what the small marks mean, written below.
        """
        colour, _, _ = method_encodings(self.labels)
        place = {"x": alt.expr("datum.px"), "y": alt.expr("datum.py"), "align": "left", "fontSize": LABEL_SIZE}
        text = alt.Chart(pd.DataFrame(self._label_rows(texts))).encode(text="text:N")
        halo = text.mark_text(stroke=WHITE, strokeWidth=2, **place)
        title = alt.Title("; ".join(remarks), orient="bottom", fontSize=7, color=QUIET, offset=10)
        chart = alt.layer(self.chart(), halo, text.mark_text(**place).encode(colour))
        return chart.properties(width=WIDTH, height=HEIGHT, title=title)

    def _positions(self) -> tuple[alt.X, alt.Y]:
        domain = self._domain("x")
        axis = alt.Axis(values=_square_ticks(domain[1]), format=".3~r") if self.root else alt.Axis(tickCount=8)
        scale = alt.Scale(type="sqrt" if self.root else "linear", domain=domain, nice=False, zero=False)
        x = alt.X("x:Q", title=self.x_title, scale=scale, axis=axis)
        scale = alt.Scale(domain=self._domain("y"), nice=False, zero=False)
        return x, alt.Y("y:Q", title="mean reward", scale=scale, axis=alt.Axis(tickCount=8))

    def _domain(self, axis: str) -> list[float]:
        """From the lowest to the highest value or bound, and a twentieth of the axis beyond."""
        values = [row[name] for row in self.rows for name in (axis, f"{axis}_low", f"{axis}_high") if name in row]
        ends = np.array([min(values), max(values)])
        if self.root and axis == "x":
            ends = _with_margin(_signed_root(ends))
            return (ends * np.abs(ends)).tolist()
        return _with_margin(ends).tolist()

    def _label_rows(self, texts: Mapping[str, str]) -> list[dict[str, Any]]:
        x_ends, y_ends = (_signed_root(self._domain("x")) if self.root else self._domain("x")), self._domain("y")

        def x(value: float) -> float:
            return float(np.interp(_signed_root(value) if self.root else value, x_ends, [0, WIDTH]))

        def y(value: float) -> float:
            return float(np.interp(value, y_ends, [HEIGHT, 0]))

        settings = [row for row in self.rows if row["kind"] == "setting"]
        obstacles = []
        for row in settings:
            across, up = x(row["x"]), y(row["y"])
            obstacles.append(((across - 3, up - 3), (across + 3, up + 3)))  # the marker
            obstacles.append(((x(row["x_low"]), up), (x(row["x_high"]), up)))
            obstacles.append(((across, y(row["y_high"])), (across, y(row["y_low"]))))
        labelled = [row for row in settings if texts.get(row["title"])]
        labels = [(texts[row["title"]], (x(row["x"]), y(row["y"]))) for row in labelled]
        placed = zip(labelled, place_labels(labels, obstacles, (WIDTH, HEIGHT)), strict=True)
        return [
            {"label": row["label"], "text": texts[row["title"]], "px": seat[0], "py": seat[1]}
            for row, seat in placed
            if seat
        ]


def _square_ticks(high: float) -> list[float]:
    """Squares of round numbers, at most nine, which stand evenly on a square-root axis."""
    steps = (factor * 10.0**power for power in range(-4, 5) for factor in (1, 2, 5))
    step = next(step for step in steps if math.sqrt(high) / step <= 8)
    return [(place * step) ** 2 for place in range(9)]


def _with_margin(ends: np.ndarray) -> np.ndarray:
    margin = 0.05 * (ends[1] - ends[0]) or 0.05
    return ends + [-margin, margin]


def _signed_root(values: Any) -> np.ndarray:
    return np.copysign(np.sqrt(np.abs(values)), values)
