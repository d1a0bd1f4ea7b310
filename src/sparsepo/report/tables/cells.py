"""What the comparison prints: numbers as text, the best and the second of each column, marks of tests, the paper."""

import math
from collections.abc import Sequence

from sparsepo.report.tables.metrics import Metric, metric_of
from sparsepo.report.tables.render import BETTER, WORSE, Block, Cell
from sparsepo.report.tables.systems import Column, Comparison, Figure, System


def blocks(made: Comparison) -> list[Block]:
    """First what is measured once, then what is measured at each temperature or of each suite."""
    once = [variant for variant in made.variants if not variant]
    several = [variant for variant in made.variants if variant]
    return [_block(made, variants) for variants in (once, several) if variants]


def variant_word(variants: Sequence[str]) -> str:
    """`temperature` where every variant is a number, else `suite`."""
    return "temperature" if all(_is_number(variant) for variant in variants) else "suite"


def ranks(shown: Sequence[float], higher_is_better: bool | None) -> list[int]:
    """1 for the best of the printed numbers, 2 for the second, else 0; equal ones share, nan has none.

    Where neither end is better, or all are equal, nothing stands out.
    """
    levels = sorted({value for value in shown if not math.isnan(value)}, reverse=bool(higher_is_better))
    if higher_is_better is None or len(levels) < 2:
        return [0 for _ in shown]
    return [levels[:2].index(value) + 1 if value in levels[:2] else 0 for value in shown]


def _block(made: Comparison, variants: Sequence[str]) -> Block:
    metrics = list(dict.fromkeys(metric for variant, metric in made.columns if variant in variants))
    printed = {name: _in_paper(made, [(variant, name) for variant in variants]) for name in metrics}
    first = ["method", "setting"] if variants == [""] else [variant_word(variants), "method", "setting"]
    heads = [head for name in metrics for head in [metric_of(name).label, *["paper"] * printed[name]]]
    parts = []
    for variant in variants:
        columns = [_column(made, (variant, name), printed[name]) for name in metrics]
        numbers = [[cell for column in columns for cell in column[place]] for place in range(len(made.systems))]
        parts.append([_opening(system, variant) + cells for system, cells in zip(made.systems, numbers, strict=True)])
    if variants == [""] and made.systems[0].method == "sft":
        parts = [part for part in (parts[0][:1], parts[0][1:]) if part]
    return Block([*first, "seeds", *heads], len(first), parts)


def _opening(system: System, variant: str) -> list[Cell]:
    return [Cell(text) for text in (*[variant] * bool(variant), system.label, system.params, str(system.seeds))]


def _column(made: Comparison, column: Column, with_paper: bool) -> list[list[Cell]]:
    """The cells of each system in one column: its own, and the paper's beside it."""
    metric = metric_of(column[1])
    figures = [system.figures[column] if column in system.figures else None for system in made.systems]
    means = [math.nan if found is None else _rounded(found.interval.mean, metric) for found in figures]
    places = ranks(means, metric.higher_is_better)
    rows = []
    for system, found, place in zip(made.systems, figures, places, strict=True):
        cells = [Cell("-" if found is None else _text(found, metric), place, _mark(made, system, column))]
        if with_paper:
            value = made.in_paper(system, column)
            cells.append(Cell("-" if value is None else _shown(value, metric)))
        rows.append(cells)
    return rows


def _in_paper(made: Comparison, columns: Sequence[Column]) -> bool:
    return any(made.in_paper(system, column) is not None for system in made.systems for column in columns)


def _mark(made: Comparison, system: System, column: Column) -> str:
    """Of the paired bootstrap against the baseline: better, worse, or nothing where 0 lies in the interval."""
    higher = metric_of(column[1]).higher_is_better
    if made.baseline is None or higher is None:
        return ""
    for found in made.differences[column]:
        if {found.a, found.b} == {system.method, made.baseline.method} and found.excludes_zero:
            above = found.difference > 0 if found.a == system.method else found.difference < 0
            return BETTER if above == higher else WORSE
    return ""


def _text(found: Figure, metric: Metric) -> str:
    """The mean, and ± the longer arm of its interval where there is one."""
    interval = found.interval
    mean = _shown(interval.mean, metric)
    if math.isnan(interval.low):
        return mean
    return f"{mean} ± {_shown(max(interval.high - interval.mean, interval.mean - interval.low), metric)}"


def _shown(value: float, metric: Metric) -> str:
    return f"{value:z.{metric.digits}f}"


def _rounded(value: float, metric: Metric) -> float:
    return float(_shown(value, metric))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
