"""How every figure looks: colour, marker and dash of a method, fonts, and how a figure is saved."""

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from sparsepo.data.records import write_bytes, write_text
from sparsepo.methods.registry import METHODS
from sparsepo.report.figures.markers import MARKERS, STAR

INK, GRID, QUIET, WHITE = "#222222", "#E0E0E0", "#777777", "#FFFFFF"
DARK_PAGE = "#14171A"  # background of the HTML page in the dark theme
WIDTH = 440  # points: a panel that fills a page of 7 inches with its axis

# The first ones also differ for colour-blind readers (Okabe and Ito, then Paul Tol).
PALETTE = (
    "#0072B2", "#332288", "#44AA99", "#7F7F7F", "#661100", "#E69F00", "#56B4E9", "#009E73", "#999933", "#CC79A7",
    "#D55E00", "#882255", "#AA3377", "#5C2D91", "#004488", "#6699CC", "#997700", "#7A8B00", "#EE3377", "#994455",
    "#225555", "#EE8866", "#AAAA00", "#DDCC77", "#117733", "#88CCEE", "#AA4499", "#CC6677", "#6A3D9A",
    "#8C564B", "#BCBD22", "#17BECF", "#B15928", "#33A02C", "#1B4F72", "#C0392B", "#D473D4", "#3B6E22",
)  # fmt: skip
DASHES = ((1, 0), (5, 2), (6, 2, 1.5, 2), (1.5, 2))
VIRIDIS = ("#440154", "#46327E", "#365C8D", "#277F8E", "#1FA187", "#4AC16D", "#8FD744")


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn in every figure. `marker` is an SVG path, `dash` a stroke pattern in points."""

    colour: str
    marker: str
    dash: tuple[float, ...]


SFT_STYLE = MethodStyle("#000000", STAR, DASHES[-1])


def method_style(method: str) -> MethodStyle:
    """The style of `method` by its place in the registry of methods.

    A method of the user takes one that the registry leaves over, by the checksum of its name: the same in every run.
    """
    if method == "sft":
        return SFT_STYLE
    names = list(METHODS)  # a new method stands at the end, so that the others keep their colours
    left_over = max(1, len(PALETTE) - len(names))
    place = names.index(method) if method in names else len(names) + zlib.crc32(method.encode()) % left_over
    return MethodStyle(*(options[place % len(options)] for options in (PALETTE, MARKERS, DASHES)))


def setting_colours(count: int) -> list[str]:
    """Colours of `count` settings, from dark to light."""
    places = [place * (len(VIRIDIS) - 1) / max(1, count - 1) for place in range(count)]
    return [_mix(VIRIDIS[math.floor(place)], VIRIDIS[math.ceil(place)], place % 1) for place in places]


def on_dark(colour: str, contrast: float = 4.5) -> str:
    """The colour, mixed with as little white as it takes to stand out on the dark page by this contrast (WCAG 2)."""
    needed = contrast * (luminance(DARK_PAGE) + 0.05) - 0.05
    return next(mix for share in range(101) if luminance(mix := _mix(colour, WHITE, share / 100)) >= needed)


def luminance(colour: str) -> float:
    """Relative luminance of `#RRGGBB`, 0 to 1, as WCAG 2 defines it."""
    shares = [value / 255 for value in _channels(colour)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mix(first: str, second: str, share: float) -> str:
    pairs = zip(_channels(first), _channels(second), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02X}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def vega_config(size: float) -> dict[str, Any]:
    """Vega-Lite's config: axes with a light grid, text of `size`."""
    text = {"labelFontSize": size - 1, "titleFontSize": size, "titleFontWeight": "normal"}
    text |= {"labelColor": INK, "titleColor": INK}
    axis = {"domainColor": INK, "tickColor": INK, "gridColor": GRID, "gridWidth": 0.6, "domainWidth": 0.8}
    return {
        "font": "Liberation Sans, Arial, Helvetica, sans-serif",  # the first is inside vl-convert
        "aria": False,
        "view": {"stroke": "transparent"},
        "axis": text | axis | {"tickWidth": 0.8, "tickSize": 3},
        "legend": text | {"labelLimit": 0, "orient": "bottom", "offset": 8, "columnPadding": 14, "rowPadding": 3},
        "title": {"fontSize": size, "fontWeight": "normal", "color": INK, "anchor": "middle", "offset": 4},
        "concat": {"spacing": 14},
    }


def to_spec(chart: alt.TopLevelMixin, size: float) -> dict[str, Any]:
    """The chart as Vega-Lite's JSON, however many rows its data have; `size` is that of its text."""
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict(validate=False) | {"config": vega_config(size)}


def sentence(text: str) -> alt.Chart:
    """A figure that says why there is nothing to see."""
    return alt.Chart(pd.DataFrame([{}])).mark_text(text=text, color=QUIET).properties(width=WIDTH, height=60)


def save_figure(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write `path`.svg and `path`.png (300 dpi), each whole or not at all; the same data give the same bytes.

    A .svg or .png suffix of `path` is dropped first; any other (`beta~0.1`) belongs to the name.
    """
    path = Path(path)
    stem = path.stem if path.suffix in (".svg", ".png") else path.name
    spec = to_spec(chart, size=8) | {"background": "white", "padding": 4}
    svg = _renumbered(vl_convert.vegalite_to_svg(spec))
    png = vl_convert.vegalite_to_png(spec, ppi=300)
    svg = re.sub(r'width="([\d.]+)" height="([\d.]+)"', r'width="\1pt" height="\2pt"', svg, count=1)
    write_text(path.with_name(f"{stem}.svg"), svg)
    write_bytes(path.with_name(f"{stem}.png"), png)


def _renumbered(svg: str) -> str:
    """The SVG with its ids numbered from 0; Vega numbers them through all charts of a process."""
    ids = {name: f"id{place}" for place, name in enumerate(dict.fromkeys(re.findall(r'id="([^"]+)"', svg)))}
    return re.sub(r'(id="|url\(#)([^")]+)', lambda match: match[1] + ids[match[2]], svg)
