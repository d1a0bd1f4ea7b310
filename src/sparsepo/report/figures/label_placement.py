"""Where small labels stand beside their points so that none covers a marker, an interval or another label."""

from collections.abc import Sequence

import numpy as np

LABEL_SIZE = 6.0  # points
_LETTER_WIDTH = 0.56 * LABEL_SIZE
# Offset from the point in points (right, down), and where the text begins from there in widths of the text.
_SEATS = ((6, -6, 0.0), (-6, -6, -1.0), (6, 7, 0.0), (-6, 7, -1.0), (0, -9, -0.5), (0, 10, -0.5))
_CLEARANCE = 2.5  # points around a segment

Position = tuple[float, float]


def place_labels(
    labels: Sequence[tuple[str, Position]], obstacles: Sequence[tuple[Position, Position]], size: Position
) -> list[Position | None]:
    """A seat for each label beside its point, in the order given; None where each seat is taken or outside the panel.

    A seat is the left end of the text and its vertical middle. All places are in points from the upper left corner.
    obstacles: horizontal or vertical segments that no label may touch. size: width and height of the panel.
    """
    ends = np.array(obstacles, dtype=float).reshape(-1, 2, 2)
    taken = np.concatenate([ends.min(1) - _CLEARANCE, ends.max(1) + _CLEARANCE], axis=1)  # left, top, right, bottom
    seats: list[Position | None] = []
    for text, (x, y) in labels:
        width, seat = _LETTER_WIDTH * len(text), None
        for right, down, shift in _SEATS:
            left, middle = x + right + shift * width, y + down
            box = np.array([left, middle - LABEL_SIZE / 2, left + width, middle + LABEL_SIZE / 2])
            is_free = not ((taken[:, :2] < box[2:]) & (taken[:, 2:] > box[:2])).all(1).any()
            if is_free and (box[:2] >= 0).all() and (box[2:] <= size).all():
                taken, seat = np.vstack([taken, box]), (left, middle)
                break
        seats.append(seat)
    return seats
