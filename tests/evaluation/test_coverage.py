"""The tables of docs/statistics.md: coverage and error rates by simulation, at 2,000 draws a cell."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)

CELLS = [
    (kind, seeds, prompts, deviation)
    for kind in ("normal", "skewed", "share")
    for seeds, deviation in [(1, 0.0), *((seeds, deviation) for seeds in (3, 5, 10) for deviation in (0.0, 0.15, 0.5))]
    for prompts in (30, 500)
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seeds", "prompts", "deviation"), CELLS)
def test_intervals_cover_at_least_what_they_say(kind, seeds, prompts, deviation):
    """94% less four standard errors of 2,000 draws, or of 500 of shares, whatever part trainings have."""
    draws = 500 if kind == "share" else 2000
    event = partial(coverage.cell, coverage.covered, kind, seeds, prompts, deviation)
    assert float(coverage.share_of(draws, event)) >= (89.7 if kind == "share" else 91.9)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seeds", "prompts", "deviation"), CELLS)
def test_equal_methods_differ_at_most_as_often_as_the_level_says(kind, seeds, prompts, deviation):
    """At most 5% of 2,000 draws, and 4 standard errors."""
    event = partial(coverage.cell, coverage.called_different, kind, seeds, prompts, deviation)
    assert float(coverage.share_of(2000, event)) <= 7.0
