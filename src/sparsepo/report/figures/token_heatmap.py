"""Token heatmaps: how each token of a pair is rewarded and held back, before and after masking."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from sparsepo.report.figures.style import PAGE_WIDTH, RC, new_figure
from sparsepo.report.figures.token_layout import (
    FONT_SIZE,
    LONGEST,
    Cell,
    Example,
    choose_examples,
    lay_out,
    printable,
    text_width,
)

Scales = dict[str, Normalize]

# Inches.
_LEFT = 0.95
_TEXT_WIDTH = PAGE_WIDTH - _LEFT - 0.05
_TEXT_HEIGHT = 0.15
_ROW_HEIGHT = 0.1
_GROUP_GAP = 0.025
_LINE_GAP = 0.07
_TITLE = 0.28
_HEADING = 0.24
_SIDE_GAP = 0.05
_FOOT = 0.55
_COLOUR_MAPS = {"reward": "RdBu", "kl": "Oranges", "mask": "Greys", "value": "PuOr"}
_SIGNED = ("reward", "value")
_BAR_LABELS = {
    "reward": r"$\log(\pi/\pi_\mathrm{ref})$ (nats)",
    "kl": r"$\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})$ (nats)",
    "mask": "mask weight",
    "value": "score or weight of the pair's data",
}


@dataclass(frozen=True)
class Row:
    """One coloured row under the tokens; `scale` says which colour bar it is read with."""

    label: str
    scale: str
    values: np.ndarray  # (tokens,)


def token_rows(side: Mapping[str, Any]) -> list[list[Row]]:
    """The rows about the reward, then those about KL: each before the mask, the mask, the product.

    Without masks a group is its first row alone. Numbers that came with the pair, as an oracle's scores, come last.
    """
    ratio = np.asarray(side["logps"]) - np.asarray(side["ref_logps"])
    groups = [
        [Row(r"$\log(\pi/\pi_\mathrm{ref})$", "reward", ratio)],
        [Row(r"$\mathrm{KL}$", "kl", np.asarray(side["reverse_kl"]))],
    ]
    for group, mask in zip(groups, ("m_u", "m_d"), strict=True):
        if mask in side:
            before, weight = group[0], np.asarray(side[mask])
            group.append(Row(f"${mask}$", "mask", weight))
            label = rf"${mask}\,{before.label.strip('$')}$"
            group.append(Row(label, before.scale, weight * before.values))
    if "values" in side:
        groups.append([Row("value", "value", np.asarray(side["values"]))])
    return groups


@rc_context(RC)
def plot_tokens(examples: Sequence[Example], method_label: str) -> Figure:
    """Up to three pairs, chosen above rejected: the text, and under each token a cell per quantity.

    All pairs share one colour scale a quantity, the same before and after the mask, so that what
    a mask takes away looks taken away. Scales end at the 98th percentile.
    """
    shown = choose_examples(examples)
    sides = [example[name] for example in shown for name in ("chosen", "rejected")]
    scales = _scales([row for side in sides for group in token_rows(side) for row in group])
    figure = new_figure(1.0, layout=None)  # axes measured in inches; the height follows below
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.text(0.05, 0.06, method_label + _remarks(sides), fontsize=8, fontweight="bold", va="top")
    bottom = _TITLE
    for example in shown:
        bottom = _draw_example(axes, example, bottom, scales)
    height = bottom + _FOOT
    figure.set_size_inches(PAGE_WIDTH, height)
    axes.set(xlim=(0, PAGE_WIDTH), ylim=(height, 0))
    _draw_colour_bars(figure, height, scales)
    return figure


def _remarks(sides: Sequence[Mapping[str, Any]]) -> str:
    remarks = []
    if any(any(side.get("planted", ())) for side in sides):
        remarks.append("planted tokens underlined")
    if any(len(side["tokens"]) > LONGEST for side in sides):
        remarks.append(f"responses cut at {LONGEST} tokens")
    return f" ({', '.join(remarks)})" if remarks else ""


def _scales(rows: Sequence[Row]) -> Scales:
    """One scale a quantity: what has a sign symmetric around 0, KL and masks from 0."""
    scales: Scales = {}
    for name in _COLOUR_MAPS:
        sizes = [np.abs(row.values) for row in rows if row.scale == name]
        if not sizes:
            continue
        top = float(np.percentile(np.concatenate(sizes), 98)) or 1.0
        scales[name] = Normalize(-top if name in _SIGNED else 0.0, top, clip=True)
    return scales


def _draw_example(axes: Axes, example: Example, top: float, scales: Scales) -> float:
    """Draw one pair from `top` downwards (inches) and return where it ends."""
    prompt = printable("Prompt: " + textwrap.shorten(example["prompt"], 110, placeholder=" …"))
    axes.text(0.05, top + 0.05, prompt, va="top", fontsize=7, parse_math=False, color="#444444")
    top += _HEADING
    for name in ("chosen", "rejected"):
        side = example[name]
        note = f"{name} {example[f'reward_{name}']:+.2f}"
        for line in lay_out(side["tokens"][:LONGEST], _TEXT_WIDTH):
            axes.text(0.05, top, note, va="top", fontsize=FONT_SIZE, fontweight="bold")
            _draw_words(axes, line, top, side.get("planted"))
            top = _draw_cells(axes, line, token_rows(side), top + _TEXT_HEIGHT, scales) + _LINE_GAP
            note = ""
        top += _SIDE_GAP
    return top


def _draw_words(axes: Axes, line: Sequence[Cell], top: float, planted: Any) -> None:
    for cell in line:
        middle = _LEFT + cell.left + cell.width / 2
        text = axes.text(middle, top, cell.text, ha="center", va="top", fontsize=FONT_SIZE)
        text.set_parse_math(False)  # a dollar sign is a token like any other
        if planted and planted[cell.index]:
            half, under = text_width(cell.text) / 2, top + 0.115
            axes.plot([middle - half, middle + half], [under, under], color="black", linewidth=1.0)


def _draw_cells(axes: Axes, line: Sequence[Cell], groups: list[list[Row]], top: float, scales: Scales) -> float:
    """The coloured rows under one line of words, their names to the left; returns their end."""
    places = [cell.index for cell in line]
    for group in groups:
        for row in group:
            centre = top + _ROW_HEIGHT / 2
            axes.text(_LEFT - 0.05, centre, row.label, ha="right", va="center", fontsize=6)
            boxes = [Rectangle((_LEFT + c.left, top), c.width, _ROW_HEIGHT) for c in line]
            shades = mpl.colormaps[_COLOUR_MAPS[row.scale]](scales[row.scale](row.values[places]))
            axes.add_collection(PatchCollection(boxes, facecolors=shades, edgecolors="#D0D0D0", linewidths=0.3))
            top += _ROW_HEIGHT
        top += _GROUP_GAP
    return top


def _draw_colour_bars(figure: Figure, height: float, scales: Scales) -> None:
    """One horizontal bar a quantity at the foot; pointed where values lie beyond its end."""
    step = 6.15 / max(3, len(scales))
    for place, (name, scale) in enumerate(scales.items()):
        left = _LEFT + place * step
        box = (left / PAGE_WIDTH, 0.36 / height, (step - 0.3) / PAGE_WIDTH, 0.09 / height)
        bar = figure.colorbar(
            ScalarMappable(scale, _COLOUR_MAPS[name]),
            cax=figure.add_axes(box),
            orientation="horizontal",
            extend="both" if name in _SIGNED else "max",
        )
        bar.outline.set_linewidth(0.4)
        bar.ax.tick_params(labelsize=6, length=2)
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
        bar.set_label(_BAR_LABELS[name], fontsize=7, labelpad=1)
