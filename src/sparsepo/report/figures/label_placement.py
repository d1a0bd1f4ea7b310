"""Where small labels stand beside their points so that none covers a marker, an interval or another label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LABEL_SIZE = 6.0  # points
_LETTER_WIDTH = 0.56 * LABEL_SIZE
# Offset from the point in points (right, down), and where the text begins from there in widths of the text.
_SEATS = ((6, -6, 0.0), (-6, -6, -1.0), (6, 7, 0.0), (-6, 7, -1.0), (0, -9, -0.5), (0, 10, -0.5))
_CLEARANCE = 2.5  # points around a segment

Position = tuple[float, float]


@dataclass(frozen=True)
class PlacedLabel:
    """The left end of the text and its vertical middle, in points from the upper left corner of the panel."""

    text: str
    x: float
    y: float


def place_labels(
    labels: Sequence[tuple[str, Position]], obstacles: Sequence[tuple[Position, Position]], size: Position
) -> list[PlacedLabel | None]:
    """A seat for each label beside its point, in the order given; None where each seat is taken or outside the panel.

    All places are in points from the upper left corner. obstacles: horizontal or vertical segments that no label may
    touch. size: width and height of the panel.
    """
    boxes = [np.concatenate([np.minimum(a, b) - _CLEARANCE, np.maximum(a, b) + _CLEARANCE]) for a, b in obstacles]
    placed: list[PlacedLabel | None] = []
    for text, (x, y) in labels:
        width = _LETTER_WIDTH * len(text)
        for right, down, shift in _SEATS:
            label = PlacedLabel(text, x + right + shift * width, y + down)
            box = np.array([label.x, label.y - LABEL_SIZE / 2, label.x + width, label.y + LABEL_SIZE / 2])
            if (box[:2] >= 0).all() and (box[2:] <= size).all() and not _overlaps(box, boxes):
                boxes.append(box)
                placed.append(label)
                break
        else:
            placed.append(None)
    return placed


def _overlaps(box: np.ndarray, boxes: Sequence[np.ndarray]) -> bool:
    left, top, right, bottom = np.stack(boxes).T if boxes else np.empty((4, 0))
    return bool(((left < box[2]) & (right > box[0]) & (top < box[3]) & (bottom > box[1])).any())
