"""The caption of the comparison (rule of choice, intervals, marks, metrics) and the notes below it."""

from collections.abc import Sequence
from itertools import product

import pandas as pd

from sparsepo.evaluation.statistics import MIN_PROMPTS
from sparsepo.report.tables.comparison import Comparison
from sparsepo.report.tables.render import BETTER, WORSE
from sparsepo.report.tables.systems import PROMPTS, PROMPTS_AND_SEEDS, SEEDS, STANDARD_ERROR

INTERVALS = {
    PROMPTS_AND_SEEDS: "of several seeds over prompts and trainings",
    PROMPTS: "of one seed over prompts, which leaves out the variation between trainings",
    SEEDS: "of scores without single items, of several seeds, over trainings and by their standard errors",
    STANDARD_ERROR: "of a score without single items 1.96 standard errors",
}


def comparison_caption(comparison: Comparison) -> str:
    """The sentences that hold for this table, in one paragraph."""
    sources = {estimate.source for system in comparison.systems for estimate in system.estimates.values()}
    intervals = [text for source, text in INTERVALS.items() if source in sources]
    pairs = [pair for column_pairs in comparison.differences.values() for pair in column_pairs]
    sentences = [
        _rule(comparison),
        *[f"±: the longer arm of the 95% interval, {'; '.join(intervals)}."] * bool(intervals),
        _ranking(comparison),
    ]
    if comparison.baseline is not None and any(pair.is_tested for pair in pairs):
        baseline, several = comparison.baseline, comparison.systems_of(comparison.baseline.method) > 1
        name = f"{baseline.label} ({baseline.params})" if several else baseline.label
        covers = "prompts and trainings" if comparison.covers_training else "prompts, for these trained models"
        sentences.append(
            f"{BETTER} / {WORSE}: better / worse than {name} by a test over {covers}, on the same prompts, at 5% after"
            " Holm's correction over all pairs of a column, which stand in the file of differences."
        )
    if any(not pair.is_tested for pair in pairs):
        sentences.append(f"Not tested: scores without single items, and fewer than {MIN_PROMPTS} shared prompts.")
    sentences += filter(None, dict.fromkeys(comparison.metric(name).note for name in comparison.metrics))
    printed = [comparison.published_value(*place) for place in product(comparison.systems, comparison.columns)]
    if any(value is not None for value in printed):
        sentences.append(f"Paper: the figure printed in {comparison.published.source}, of another run and often model.")
    return " ".join(sentences)


def comparison_notes(comparison: Comparison) -> list[str]:
    """Estimates that some seeds lack, then the notes of the runs shown: equal notes once, with all their runs."""
    runs_by_note: dict[str, list[str]] = {}
    for system in comparison.systems:
        for note, run in system.notes:
            runs_by_note.setdefault(note, []).append(run)
    notes = [f"{', '.join(dict.fromkeys(runs))}: {note}" for note, runs in runs_by_note.items()]
    missing = [
        f"{system.label}: {comparison.metric(metric).label}{f' at {variant}' if variant else ''} is the mean of"
        f" {estimate.runs} of {system.seeds} seeds; the others lack it"
        for system in comparison.systems
        for (variant, metric), estimate in system.estimates.items()
        if estimate.runs < system.seeds
    ]
    return missing + notes


def variant_word(variants: Sequence[str]) -> str:
    """`temperature` where every variant is a number, else `suite`."""
    return "suite" if pd.to_numeric(pd.Series(variants), errors="coerce").isna().any() else "temperature"


def _rule(comparison: Comparison) -> str:
    if all(system.candidates == 1 for system in comparison.systems):
        return "Every setting is a row, so nothing was chosen; figures are on test data."
    metric = comparison.metric(comparison.select)
    best = "highest" if metric.higher_is_better else "lowest"
    data, warning = "validation data", "Test data choose nothing; all figures are on test data."
    if comparison.selected_on_test:
        data = "HumanEval, the choice of the SparsePO paper"
        warning = "HumanEval is test data, so the choice has seen what the table reports: its figures are too high."
    several = any(system.candidates > 1 and system.seeds > 1 for system in comparison.systems)
    each = " Of several seeds each is measured at the setting that the others choose." if several else ""
    return (
        f"Each method stands at the setting of its grid with the {best} {metric.label} on {data},"
        " a mean over seeds and over temperatures or suites where there are several;"
        f" of equal settings the first in the config is taken.{each} {warning}"
    )


def _ranking(comparison: Comparison) -> str:
    unranked = [name for name in comparison.metrics if comparison.metric(name).higher_is_better is None]
    variants = [variant for variant in comparison.variants if variant]
    column = f"column and {variant_word(variants)}" if variants else "column"
    left_out = f" Not ranked: {', '.join(comparison.metric(name).label for name in unranked)}." if unranked else ""
    return f"Bold is the best of a {column} as printed, underlined the second; equal ones share.{left_out}"
