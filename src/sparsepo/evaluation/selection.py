"""At which point of its grid a method is compared: chosen on validation data alone."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from sparsepo.errors import UserError

Measurements = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What was measured of a run on one split: {variant: {metric: {"values": [...], "groups": [...]}}}."""

Point = TypeVar("Point")


def chosen_point(points: Mapping[Point, Sequence[Measurements]], metric: str, higher_is_better: bool | None) -> Point:
    """The point of best mean `metric`; of equal ones the first.

    points: for each point of a grid the validation measurements of its runs, one a seed. The mean is over all seeds and
    variants (temperatures, suites) that have the metric, each counted once. A single point needs no choice. Raises
    UserError when a point lacks the metric or it is not a number, and for a metric without a better end.
    """
    if len(points) == 1:
        return next(iter(points))
    if higher_is_better is None:
        raise UserError(f"evaluation.select: neither end of '{metric}' is better, so it cannot choose among points")
    levels = {point: _level(runs, metric) for point, runs in points.items()}
    for point, level in levels.items():
        if math.isnan(level):
            raise UserError(f"evaluation.select: '{metric}' was not measured on validation data at {point}")
    sign = 1 if higher_is_better else -1
    return max(levels, key=lambda point: sign * levels[point])


def _level(runs: Sequence[Measurements], metric: str) -> float:
    """nan without any value."""
    found = [measured[metric] for run in runs for measured in run.values() if metric in measured]
    means = [fmean(measurement["values"]) for measurement in found if measurement["values"]]
    return fmean(means) if means else math.nan
