"""How every figure looks: one colour, marker and line style a method, and how a figure is saved."""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparsepo.runtime.errors import add_path_to_disk_error

RC = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "svg.fonttype": "path",  # token cells are measured for this font; another would overflow them
    "svg.hashsalt": "sparsepo",
}
PAGE_WIDTH = 7.0  # inches
DARK_PAGE = "#14171A"  # of the HTML page in the dark


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn wherever it appears."""

    colour: str
    marker: str
    line: str


# Okabe and Ito's palette first, Paul Tol's for the rest. No two methods share a colour, nor a marker and a line, so
# that a figure of curves also reads in grey; the methods of the SparsePO paper have each a marker of its own.
METHOD_STYLES = {
    "sft": MethodStyle("#000000", "*", ":"),
    "dpo": MethodStyle("#0072B2", "o", "-"),
    "cdpo": MethodStyle("#332288", "<", "--"),
    "robust": MethodStyle("#44AA99", ">", "-."),
    "hinge": MethodStyle("#7F7F7F", "h", ":"),
    "ipo": MethodStyle("#661100", "p", "--"),
    "simpo": MethodStyle("#E69F00", "s", "--"),
    "dpop": MethodStyle("#56B4E9", "d", "-."),
    "tdpo1": MethodStyle("#009E73", "^", "--"),
    "tdpo2": MethodStyle("#999933", "v", "-."),
    "mapo": MethodStyle("#CC79A7", "D", "-"),
    "sparsepo_common": MethodStyle("#D55E00", "P", "-"),
    "sparsepo_independent": MethodStyle("#882255", "X", "-"),
    "sparsepo_reward_only": MethodStyle("#AA3377", "P", "--"),
    "sparsepo_kl_only": MethodStyle("#5C2D91", "X", "--"),
    "odpo": MethodStyle("#004488", "8", "-"),
    "beta_dpo": MethodStyle("#6699CC", "H", "--"),
    "kto": MethodStyle("#997700", "8", "--"),
    "orpo": MethodStyle("#7A8B00", "H", "-."),
    "sepo": MethodStyle("#EE3377", "p", "-"),
    "rho": MethodStyle("#994455", "h", "-"),
    "inpo": MethodStyle("#225555", "<", "-"),
    "fdpg": MethodStyle("#EE8866", ">", "-"),
    "fdpg_feature": MethodStyle("#AAAA00", "d", "-"),
}
SPARE_COLOURS = ("#DDCC77", "#117733", "#88CCEE", "#AA4499", "#CC6677", "#5A5A5A")
_SPARE_MARKERS = ("8", "H")
_SPARE_LINES = ("-", "--", "-.", ":")


def method_style(method: str) -> MethodStyle:
    """The style of `method`; an unknown name gets one from its checksum, the same in every run."""
    if method in METHOD_STYLES:
        return METHOD_STYLES[method]
    number = zlib.crc32(method.encode())
    picked = []
    for spares in (SPARE_COLOURS, _SPARE_MARKERS, _SPARE_LINES):
        number, place = divmod(number, len(spares))
        picked.append(spares[place])
    return MethodStyle(*picked)


def on_dark(colour: str, page: str = DARK_PAGE, contrast: float = 4.5) -> str:
    """The colour, mixed with as little white as it takes to stand out on a dark page by this contrast (WCAG 2)."""
    needed = contrast * (luminance(page) + 0.05) - 0.05
    for share in range(101):
        mixed = "#" + "".join(f"{round(value + (255 - value) * share / 100):02X}" for value in _channels(colour))
        if luminance(mixed) >= needed:
            break
    return mixed


def _channels(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def luminance(colour: str) -> float:
    """Relative luminance of `#RRGGBB`, 0 to 1, as WCAG 2 defines it."""
    shares = [value / 255 for value in _channels(colour)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def new_figure(height: float, layout: str | None = "constrained") -> Figure:
    """An empty page-wide figure (height in inches) on an Agg canvas; no pyplot, no global state."""
    figure = Figure(figsize=(PAGE_WIDTH, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write `path`.svg and `path`.png (300 dpi), each whole or not at all.

    A .svg or .png suffix of `path` is dropped first; any other (`beta~0.1`) belongs to the name.
    The same data give the same bytes: the salt of SVG ids is fixed and no date is written.
    """
    path = Path(path)
    stem = path.stem if path.suffix in (".svg", ".png") else path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("svg", {"Date": None}), ("png", None)):
        temporary = path.with_name(f".{stem}.{kind}.{os.getpid()}.tmp")
        try:
            with add_path_to_disk_error(path), rc_context(RC):
                figure.savefig(temporary, format=kind, dpi=300, metadata=metadata)
            os.replace(temporary, path.with_name(f"{stem}.{kind}"))
        finally:
            temporary.unlink(missing_ok=True)
