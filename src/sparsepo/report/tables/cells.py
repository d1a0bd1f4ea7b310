"""The comparison as a printed table: cells, the best and second of each column, marks of tests, the paper's values."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from sparsepo.evaluation.statistics import Interval
from sparsepo.report.tables.caption import comparison_caption, comparison_notes, variant_word
from sparsepo.report.tables.comparison import Comparison, comparison_frame, differences_frame
from sparsepo.report.tables.render import (
    BETTER,
    WORSE,
    Block,
    Cell,
    Table,
    format_number,
    mean_with_interval,
    write_csv,
    write_table,
)
from sparsepo.report.tables.systems import ColumnKey, System


def write_comparison(comparison: Comparison, *, differences: Path, notes: Sequence[str], provenance: str,
                     csv_bom: bool = False, **paths: Path) -> None:  # fmt: skip
    """Write the comparison to the csv, markdown and latex of `paths`, and all tests as CSV to `differences`.

    `notes` stand below the table, after those of the runs; `provenance` says what made the numbers; csv_bom: see
    `write_csv`.
    """
    write_csv(differences_frame(comparison), differences, csv_bom)
    frame = comparison_frame(comparison)
    write_table(comparison_table(comparison, notes, provenance), frame, csv_bom=csv_bom, **paths)


def comparison_table(comparison: Comparison, notes: Sequence[str], provenance: str) -> Table:
    """First a block of what is measured once, then one of what is measured at each temperature or of each suite."""
    once = [variant for variant in comparison.variants if not variant]
    repeated = [variant for variant in comparison.variants if variant]
    blocks = [_block(comparison, variants) for variants in (once, repeated) if variants]
    notes = [*comparison_notes(comparison), *notes]
    return Table(blocks, comparison_caption(comparison), notes, provenance)


def ranks(values: Sequence[float], higher_is_better: bool | None) -> list[int]:
    """1 for the best of the printed numbers, 2 for the second, else 0; equal ones share a rank, nan has none.

    All are 0 where neither end is better or where all numbers are equal.
    """
    levels = sorted({value for value in values if not math.isnan(value)}, reverse=bool(higher_is_better))
    if higher_is_better is None or len(levels) < 2:
        return [0 for _ in values]
    return [levels[:2].index(value) + 1 if value in levels[:2] else 0 for value in values]


def _block(comparison: Comparison, variants: Sequence[str]) -> Block:
    metrics = list(dict.fromkeys(metric for variant, metric in comparison.columns if variant in variants))
    places = list(product(comparison.systems, variants))
    with_paper = {
        name: any(comparison.published_value(system, (variant, name)) is not None for system, variant in places)
        for name in metrics
    }
    first = ["method", "setting"] if variants == [""] else [variant_word(variants), "method", "setting"]
    heads = [head for name in metrics for head in [comparison.metric(name).label, *["paper"] * with_paper[name]]]
    parts = []
    for variant in variants:
        columns = [_column(comparison, (variant, name), with_paper[name]) for name in metrics]
        first_cells = [
            [Cell(text) for text in (*[variant] * bool(variant), system.label, system.params, str(system.seeds))]
            for system in comparison.systems
        ]
        parts.append([sum(cells, []) for cells in zip(first_cells, *columns, strict=True)])
    if variants == [""] and comparison.systems[0].method == "sft":
        parts = [part for part in (parts[0][:1], parts[0][1:]) if part]
    return Block([*first, "seeds", *heads], len(first), parts)


def _column(comparison: Comparison, column: ColumnKey, with_paper: bool) -> list[list[Cell]]:
    """The cells of each system in one column: its own and, beside it, the paper's."""
    metric = comparison.metric(column[1])
    none = Interval(math.nan, math.nan, math.nan)
    intervals = [
        system.estimates[column].interval if column in system.estimates else none for system in comparison.systems
    ]
    printed = ranks([float(f"{interval.mean:.{metric.digits}f}") for interval in intervals], metric.higher_is_better)
    rows = []
    for system, interval, rank in zip(comparison.systems, intervals, printed, strict=True):
        text = mean_with_interval(*vars(interval).values(), metric.digits)
        paper = format_number(comparison.published_value(system, column), metric.digits)
        rows.append([Cell(text, rank, _mark(comparison, system, column)), *[Cell(paper)] * with_paper])
    return rows


def _mark(comparison: Comparison, system: System, column: ColumnKey) -> str:
    """Of the test against the baseline: better, worse, or "" where they do not differ significantly."""
    higher = comparison.metric(column[1]).higher_is_better
    if comparison.baseline is None or higher is None:
        return ""
    for pair in comparison.differences.get(column, ()):
        if {pair.a, pair.b} == {system.name, comparison.baseline.name} and pair.is_significant:
            above = pair.difference > 0 if pair.a == system.name else pair.difference < 0
            return BETTER if above == higher else WORSE
    return ""
