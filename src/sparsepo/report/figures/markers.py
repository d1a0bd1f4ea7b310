"""Markers as SVG paths in a square from -1 to 1, which figures and the buttons of the page share."""

import cmath
import math
from collections.abc import Sequence


def _path(points: Sequence[complex]) -> str:
    return "M" + "L".join(f"{point.real:.3g},{point.imag:.3g}" for point in points) + "Z"


def _polygon(corners: int, turn: float = 0.0, radii: Sequence[float] = (1.0,)) -> str:
    """A regular polygon with a corner `turn` degrees from the top; two alternating radii make a star."""
    angles = [math.radians(turn - 90 + 360 * corner / corners) for corner in range(corners)]
    return _path([cmath.rect(radii[corner % len(radii)], angle) for corner, angle in enumerate(angles)])


def _cross(turn: float) -> str:
    """A cross of thick bars, turned by `turn` degrees."""
    quarter = (-0.32 - 0.95j, 0.32 - 0.95j, 0.32 - 0.32j)
    return _path([cmath.rect(1, math.radians(turn)) * 1j**turns * point for turns in range(4) for point in quarter])


STAR = _polygon(10, radii=(1.0, 0.4))
MARKERS = (
    "M0.85,0A0.85,0.85,0,1,1,-0.85,0A0.85,0.85,0,1,1,0.85,0Z",  # a circle
    _polygon(3, -90),
    _polygon(3, 90),
    _polygon(6),
    _polygon(5),
    _polygon(4, 45),
    _path([-1j, 0.55, 1j, -0.55]),  # a narrow diamond
    _polygon(3),
    _polygon(3, 180),
    _polygon(4),
    _cross(0),
    _cross(45),
    _polygon(8, 22.5),
    _polygon(6, 30),
    _polygon(8, radii=(1.0, 0.4)),
)
