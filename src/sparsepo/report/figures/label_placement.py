"""Putting small labels beside the points of a plot so that none covers another thing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

Point = tuple[float, float]

# Where a label may stand: offset from its point in points, horizontal and vertical alignment.
_SEATS = (
    (4, 3, "left", "bottom"),
    (-4, 3, "right", "bottom"),
    (4, -3, "left", "top"),
    (-4, -3, "right", "top"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
)
_CLEARANCE = 2.5  # points on both sides of a segment
_LINE_CLEARANCE = 1.0


@dataclass(frozen=True)
class Label:
    """A short text that belongs beside `at` (data coordinates)."""

    text: str
    at: Point
    colour: str


def place_labels(figure: Figure, axes: Axes, labels: Sequence[Label], taken: Sequence[tuple[Point, Point]]) -> None:
    """Write each label at the best free seat around its point, in the order given.

    `taken`: horizontal or vertical segments (data coordinates) that no label may touch. Lines
    already in the plot are avoided where there is a choice. A label without a free seat is left
    out, because one missing is better than two that cannot be read.
    """
    figure.draw_without_rendering()  # settles the layout, so that pixels mean something
    pixels = figure.dpi / 72
    boxes = [_around(axes, segment, _CLEARANCE * pixels) for segment in taken]
    lines = [line.get_xydata() for line in axes.lines if line.get_linestyle() != "None"]
    lines = [_around(axes, [point], _LINE_CLEARANCE * pixels) for line in lines for point in line]
    frame = axes.get_window_extent().extents
    for label in labels:
        seats = []
        for seat in _SEATS:
            box = _measure(figure, axes, label, seat)
            inside = (box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all()
            if inside and not _covered(box, boxes):
                seats.append((_covered(box, lines), len(seats), seat, box))
        if seats:
            _, _, seat, box = min(seats, key=lambda found: found[:2])
            _write(axes, label, seat)
            boxes.append(box)


def _around(axes: Axes, points: Sequence[Point], margin: float) -> np.ndarray:
    """Left, bottom, right and top in pixels of the points' box, `margin` wider on all sides."""
    places = axes.transData.transform(points)
    return np.concatenate([places.min(axis=0) - margin, places.max(axis=0) + margin])


def _covered(box: np.ndarray, others: Sequence[np.ndarray]) -> int:
    """How many of the other boxes this one overlaps."""
    if not others:
        return 0
    left, bottom, right, top = np.stack(others).T
    apart = (left >= box[2]) | (right <= box[0]) | (bottom >= box[3]) | (top <= box[1])
    return int((~apart).sum())


def _measure(figure: Figure, axes: Axes, label: Label, seat: tuple) -> np.ndarray:
    text = _write(axes, label, seat)
    extents = text.get_window_extent(figure.canvas.get_renderer()).extents
    text.remove()
    return extents


def _write(axes: Axes, label: Label, seat: tuple) -> Annotation:
    right, up, horizontal, vertical = seat
    return axes.annotate(
        label.text,
        label.at,
        xytext=(right, up),
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        fontsize=6,
        color=label.colour,
        zorder=7,
        path_effects=[patheffects.withStroke(linewidth=1.5, foreground="white")],
    )
