"""What a reader of the comparison has to know: the rule of choice, intervals, marks, metrics; and the notes of runs."""

from sparsepo.report.tables.cells import variant_word
from sparsepo.report.tables.metrics import metric_of
from sparsepo.report.tables.render import BETTER, WORSE
from sparsepo.report.tables.systems import ERROR, PROMPTS, SEEDS, Comparison

_INTERVALS = {
    SEEDS: "of several seeds half the 95% Student-t interval of the mean over seeds",
    PROMPTS: "of one seed the longer arm of the 95% bootstrap interval over prompts, each resampled whole, which leaves"
    " out the variation between trainings",
    ERROR: "of a score without single items 1.96 standard errors",
}


def caption(made: Comparison) -> str:
    """The sentences that hold for this table, in one paragraph."""
    sentences = [*_rule(made), *_interval(made), *_order(made), *_tests(made), *_metrics(made)]
    if any(made.in_paper(system, column) is not None for system in made.systems for column in made.columns):
        sentences.append(f"Paper: the figure printed in {made.published.source}, of another run and often model.")
    return " ".join(sentences)


def findings(made: Comparison) -> list[str]:
    """Figures that some seeds lack, then what was noted of the runs shown: equal notes once, with all their runs."""
    said: dict[str, list[str]] = {}
    for system in made.systems:
        for text, run in system.notes:
            said.setdefault(text, []).append(run)
    return [*_incomplete(made), *(f"{', '.join(dict.fromkeys(runs))}: {text}" for text, runs in said.items())]


def _rule(made: Comparison) -> list[str]:
    if all(system.points == 1 for system in made.systems):
        return ["Every setting is a row, so nothing was chosen; figures are on test data."]
    metric = metric_of(made.select)
    best = "highest" if metric.higher_is_better else "lowest"
    return [
        f"Each method stands at the setting of its grid with the {best} {metric.label} on validation data,"
        " a mean over seeds and over temperatures or suites where there are several;"
        " of equal settings the first in the config is taken. Test data choose nothing; all figures are on test data."
    ]


def _interval(made: Comparison) -> list[str]:
    used = {found.over for system in made.systems for found in system.figures.values()}
    there = [sentence for over, sentence in _INTERVALS.items() if over in used]
    return [f"±: {'; '.join(there)}."] if there else []


def _order(made: Comparison) -> list[str]:
    unranked = [name for name in _names(made) if metric_of(name).higher_is_better is None]
    several = [variant for variant in made.variants if variant]
    each = f"column and {variant_word(several)}" if several else "column"
    labels = ", ".join(metric_of(name).label for name in unranked)
    left_out = f" Not ranked: {labels}." if unranked else ""
    return [f"Bold is the best of a {each} as printed, underlined the second; equal ones share.{left_out}"]


def _tests(made: Comparison) -> list[str]:
    pairs = [found for found in made.differences.values() for found in found]
    sentences = []
    if made.baseline is not None and any(found.is_tested for found in pairs):
        sentences = [
            f"{BETTER} / {WORSE}: better / worse than {made.baseline.label} by a paired bootstrap over the same"
            " prompts at 95%, not corrected for the number of comparisons.",
            "Permutation tests between all systems, corrected by Holm's method over the pairs of a column, stand in the"
            " file of differences."
            " Tests take each prompt's mean over seeds, so they leave out the variation between trainings.",
        ]
    if any(not found.is_tested for found in pairs):
        sentences.append("Scores without single items are not tested.")
    return sentences


def _metrics(made: Comparison) -> list[str]:
    return list(dict.fromkeys(metric_of(name).note for name in _names(made) if metric_of(name).note))


def _names(made: Comparison) -> list[str]:
    return list(dict.fromkeys(metric for _, metric in made.columns))


def _incomplete(made: Comparison) -> list[str]:
    return [
        f"{system.label}: {metric_of(metric).label}{f' at {variant}' if variant else ''} is the mean of"
        f" {found.runs} of {system.seeds} seeds; the others lack it"
        for system in made.systems
        for (variant, metric), found in system.figures.items()
        if found.runs < system.seeds
    ]
