"""Token heatmaps: how each token of a pair is rewarded and held back, before and after masking."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from sparsepo.report.figures.style import INK
from sparsepo.report.figures.token_layout import (
    FONT_SIZE,
    MAX_TOKENS,
    Example,
    TokenCell,
    choose_examples,
    lay_out,
    printable,
    text_width,
)

# Points.
_PAGE, _LEFT = 500.0, 70.0
_TITLE, _PROMPT, _TEXT, _ROW, _GROUP_GAP, _LINE_GAP, _SIDE_GAP = 20.0, 16.0, 11.0, 7.2, 2.0, 6.0, 4.0

Datum = dict[str, Any]


@dataclass(frozen=True)
class ColourScale:
    """How a quantity is coloured, at equal distances. `signed`: symmetric around 0, else from 0.

    `top`: where the colours end; None: at the 98th percentile, so that one token does not make all others pale.
    """

    colours: tuple[str, ...]
    title: str
    signed: bool = False
    top: float | None = None


SCALES = {
    "reward": ColourScale(("#B2182B", "#F7F7F7", "#2166AC"), "log(π/ref) (nats)", signed=True),
    "kl": ColourScale(("#FFF5EB", "#FD8D3C", "#7F2704"), "KL(π‖ref) (nats)"),
    "mask": ColourScale(("#FFFFFF", "#000000"), "mask weight"),
    "value": ColourScale(("#B35806", "#F7F7F7", "#542788"), "score or weight of the pair's data", signed=True),
    "scaled": ColourScale(("#F7FBFF", "#6BAED6", "#08306B"), "each row scaled to [0, 1]", top=1.0),
}


@dataclass(frozen=True)
class HeatmapRow:
    """One coloured row under the tokens; `scale` is its key in `SCALES`."""

    label: str
    scale: str
    values: np.ndarray  # (tokens,)


def heatmap_rows(side: Mapping[str, Any]) -> list[list[HeatmapRow]]:
    """The rows about the reward, then those about KL: each before the mask, the mask, the product.

    Without masks a group is its first row alone. Numbers that came with the pair, as an oracle's scores, come last.
    """
    ratio, groups = np.subtract(side["logps"], side["ref_logps"]), []
    kl = np.asarray(side["reverse_kl"])
    for label, scale, values, mask in (("log(π/ref)", "reward", ratio, "m_u"), ("KL", "kl", kl, "m_d")):
        groups.append([HeatmapRow(label, scale, values)])
        if mask in side:
            weight = np.asarray(side[mask])
            groups[-1].append(HeatmapRow(mask, "mask", weight))
            groups[-1].append(HeatmapRow(f"{mask} · {label}", scale, weight * values))
    if "values" in side:
        groups.append([HeatmapRow("value", "value", np.asarray(side["values"]))])
    return groups


def plot_tokens(examples: Sequence[Example], method_label: str) -> alt.LayerChart:
    """Up to three pairs, chosen above rejected: the text, and under each token a cell per quantity.

    All pairs share one colour scale per quantity, the same before and after the mask, so that what
    a mask removes turns pale.
    """
    shown = choose_examples(examples)
    sides = [example[name] for example in shown for name in ("chosen", "rejected")]
    remarks = ["colours end at the 98th percentile"]
    if any(any(side.get("planted", ())) for side in sides):
        remarks.append("planted tokens underlined")
    if any(len(side["tokens"]) > MAX_TOKENS for side in sides):
        remarks.append(f"responses cut at {MAX_TOKENS} tokens")
    drawing, bottom = _Drawing(), _TITLE
    drawing.write(f"{method_label} ({', '.join(remarks)})", 0, 4, fontSize=8, fontWeight="bold")
    for example in shown:
        bottom = drawing.add_example(example, bottom)
    return drawing.chart(bottom)


def scaled_rows(sides: Mapping[str, Mapping[str, Any]]) -> list[list[HeatmapRow]]:
    """log(π/ref) of each method, then KL, after the mask where it has one. The least of a row is 0, the largest 1.

    sides: printed name of a method -> its side of one pair.
    """
    groups: list[list[HeatmapRow]] = [[], []]
    for label, side in sides.items():
        for group, name, rows in zip(groups, ("reward", "KL"), heatmap_rows(side), strict=False):
            values = rows[-1].values - rows[-1].values.min()
            group.append(HeatmapRow(f"{label} {name}", "scaled", values / (values.max() or 1.0)))
    return groups


def plot_token_comparison(examples: Mapping[str, Sequence[Example]]) -> alt.LayerChart:
    """One pair, chosen above rejected: under each token what each method does to it, every row scaled to [0, 1].

    As Figures 1, 4 and 9 of arXiv 2410.05102. examples: printed name of a method -> its examples, of the same pairs.
    """
    first = next(iter(examples.values()))
    place = first.index(choose_examples(first)[0])
    drawing = _Drawing(left=max(map(text_width, examples)) + 20)
    bottom = drawing.add_prompt(first[place], 0)
    for name in ("chosen", "rejected"):
        sides = {label: own[place][name] for label, own in examples.items()}
        assert all(side["tokens"] == first[place][name]["tokens"] for side in sides.values()), "of other pairs"
        drawing.write(name, 0, bottom + 4, fontWeight="bold")
        bottom = drawing.add_side(first[place][name], scaled_rows(sides), bottom)
    return drawing.chart(bottom)


class _Drawing:
    """Texts, lines and coloured cells, in points from the upper left corner of the page; `left`: where tokens begin."""

    def __init__(self, left: float = _LEFT) -> None:
        self.left = left
        self.texts: list[Datum] = []
        self.underlines: list[Datum] = []
        self.cells: dict[str, list[Datum]] = {}
        self.values: dict[str, list[np.ndarray]] = {}

    def write(self, text: str, x: float, y: float, **style: Any) -> None:
        defaults = {"align": "left", "fontSize": FONT_SIZE, "fontWeight": "normal"}
        self.texts.append({"text": text, "x": x, "y": y} | defaults | style)

    def add_example(self, example: Example, top: float) -> float:
        """Add one pair from `top` downwards; returns where it ends."""
        top = self.add_prompt(example, top)
        for name in ("chosen", "rejected"):
            self.write(f"{name} {example[f'reward_{name}']:+.2f}", 0, top + 4, fontWeight="bold")
            top = self.add_side(example[name], heatmap_rows(example[name]), top)
        return top

    def add_prompt(self, example: Example, top: float) -> float:
        prompt = printable("Prompt: " + textwrap.shorten(example["prompt"], 110, placeholder=" …"))
        self.write(prompt, 0, top + 4, fontSize=7)
        return top + _PROMPT

    def add_side(self, side: Mapping[str, Any], groups: Sequence[Sequence[HeatmapRow]], top: float) -> float:
        """The tokens of a response and the rows under each line of them; returns where they end."""
        for row in [row for group in groups for row in group]:
            self.values.setdefault(row.scale, []).append(np.abs(row.values))
        for line in lay_out(side["tokens"][:MAX_TOKENS], _PAGE - self.left):
            self.add_tokens(line, top, side.get("planted"))
            top = self.add_cells(line, groups, top + _TEXT) + _LINE_GAP
        return top + _SIDE_GAP

    def add_tokens(self, line: Sequence[TokenCell], top: float, planted: Sequence[int] | None) -> None:
        for cell in line:
            middle, half = self.left + cell.left + cell.width / 2, text_width(cell.text) / 2
            self.write(cell.text, middle, top + 4, align="center")
            if planted and planted[cell.index]:
                self.underlines.append({"x": middle - half, "right": middle + half, "y": top + 9})

    def add_cells(self, line: Sequence[TokenCell], groups: Sequence[Sequence[HeatmapRow]], top: float) -> float:
        """The coloured rows under one line of tokens, their labels to the left; returns where they end."""
        for group in groups:
            for row in group:
                self.write(row.label, self.left - 4, top + _ROW / 2, align="right", fontSize=6)
                self.cells.setdefault(row.scale, []).extend(
                    {
                        "x": self.left + cell.left,
                        "right": self.left + cell.left + cell.width,
                        "y": top,
                        "bottom": top + _ROW,
                    }
                    | {"value": float(row.values[cell.index])}
                    for cell in line
                )
                top += _ROW
            top += _GROUP_GAP
        return top

    def chart(self, height: float) -> alt.LayerChart:
        x, y = alt.X("x:Q", scale=None, axis=None), alt.Y("y:Q", scale=None, axis=None)
        layers = [
            alt.Chart(pd.DataFrame(self.cells[name])).mark_rect(stroke="#D0D0D0", strokeWidth=0.3)
            .encode(x, y, x2="right:Q", y2="bottom:Q", color=self._colour(name))
            for name in SCALES if name in self.cells
        ]  # fmt: skip
        style = {name: alt.expr(f"datum.{name}") for name in ("align", "fontSize", "fontWeight")}
        text = alt.Chart(pd.DataFrame(self.texts)).mark_text(baseline="middle", color=INK, **style)
        lines = alt.Chart(pd.DataFrame(self.underlines)).mark_rule(color=INK).encode(x, y, x2="right:Q")
        chart = alt.layer(*layers, text.encode(x, y, text="text:N"), *([lines] if self.underlines else []))
        return chart.resolve_scale(color="independent").properties(width=_PAGE, height=height)

    def _colour(self, name: str) -> alt.Color:
        scale = SCALES[name]
        top = scale.top or float(np.percentile(np.concatenate(self.values[name]), 98)) or 1.0
        legend = alt.Legend(title=scale.title, gradientLength=105, gradientThickness=6, tickCount=4)
        domain = np.linspace(-top if scale.signed else 0.0, top, len(scale.colours)).tolist()
        return alt.Color("value:Q", legend=legend).scale(range=list(scale.colours), domain=domain, clamp=True)
