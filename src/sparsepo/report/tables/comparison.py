"""The table that compares methods, each at the point that validation data chose, and the tests between them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sparsepo.data.records import write_text
from sparsepo.evaluation.significance import pairwise_differences
from sparsepo.report.tables.caption import caption, findings
from sparsepo.report.tables.cells import blocks
from sparsepo.report.tables.metrics import in_order
from sparsepo.report.tables.published import Published
from sparsepo.report.tables.render import comparison_latex, comparison_markdown
from sparsepo.report.tables.systems import Column, Comparison, System, systems
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress


def comparison(files: Sequence[Mapping[str, Any]], spec: Mapping[str, Any], published: Published) -> Comparison:
    """Every method at its point of best `spec["select"]` on validation data, with its figures on test data; or, where
    `spec["rows"]` is "settings", every point of every method.

    files: the measure files of all runs of a task, in the order of the config. `spec["baseline"]` is the method that
    the marks compare with; None: `dpo` where it is there, else `sft`. Raises UserError for a baseline without a run and
    where `select` cannot choose.
    """
    compared = systems(files, spec["select"], spec["rows"])
    columns = _columns(compared)
    differences = {column: _differences(compared, column) for column in progress(columns, len(columns), "comparing")}
    baseline = _baseline(compared, spec["baseline"])
    return Comparison(compared, columns, spec["select"], baseline, differences, published)


def write_comparison(
    made: Comparison,
    *,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    differences: str | Path,
    notes: Sequence[str],
    provenance: str,
) -> None:
    """Write the table for people and for machines (CSV, 6 significant digits, no comment lines), and all tests.

    `notes` stand below the table, after those of the runs; `provenance` says what made the numbers.
    """
    said = [*findings(made), *notes]
    write_text(csv, _csv(comparison_frame(made)))
    write_text(differences, _csv(differences_frame(made)))
    write_text(markdown, comparison_markdown(blocks(made), caption(made), said, provenance))
    write_text(latex, comparison_latex(blocks(made), caption(made), said, provenance))


def comparison_frame(made: Comparison) -> pd.DataFrame:
    """One row a variant and system: each metric with its bounds, and `_paper` where the paper has a figure.

    Units are the printed ones (win rate and pass@k in percent). What is missing is nan.
    """
    rows = []
    for variant in made.variants:
        for system in made.systems:
            row: dict[str, Any] = {"label": system.label, "method": system.method, "params": system.params}
            row |= {"seeds": system.seeds, "variant": variant}
            for column in made.columns:
                if column[0] == variant:
                    row |= _numbers(made, system, column)
            rows.append(row)
    return pd.DataFrame(rows)


def differences_frame(made: Comparison) -> pd.DataFrame:
    """One row a metric, variant and pair of systems: the mean of a - b over shared prompts, and its tests.

    Bounds are of the paired bootstrap, `p` of the permutation test, `p_holm` after Holm's correction over the pairs of
    one metric and variant; `real` is yes or no by `p_holm`, and empty where nothing could be tested.
    """
    names = "system_a system_b metric variant prompts difference low high p p_holm real".split()
    rows = [
        (found.a, found.b, metric, variant, found.prompts, found.difference, found.low, found.high, found.p)
        + (found.p_holm, ("yes" if found.is_significant else "no") if found.is_tested else "")
        for (variant, metric), pairs in made.differences.items()
        for found in pairs
    ]
    return pd.DataFrame(rows, columns=names)


def _columns(compared: Sequence[System]) -> list[Column]:
    """Every (variant, metric) that a system has: variants as they come, metrics as their table has them."""
    known = {column for system in compared for column in system.figures}
    variants = dict.fromkeys(variant for system in compared for variant, _ in system.figures)
    metrics = in_order(list(dict.fromkeys(metric for system in compared for _, metric in system.figures)))
    return [(variant, metric) for variant in variants for metric in metrics if (variant, metric) in known]


def _differences(compared: Sequence[System], column: Column) -> list:
    return pairwise_differences(
        {system.name: system.figures[column].items for system in compared if column in system.figures}
    )


def _baseline(compared: Sequence[System], asked: str | None) -> System | None:
    """The system asked for, else DPO, else SFT, else none."""
    there: dict[str, System] = {}
    for system in compared:
        there.setdefault(system.method, system)
    if asked is not None and asked not in there:
        raise UserError(f"evaluation.baseline: there is no run of '{asked}'; there are {', '.join(there)}")
    return next((there[name] for name in (asked, "dpo", "sft") if name in there), None)


def _numbers(made: Comparison, system: System, column: Column) -> dict[str, float]:
    name = column[1]
    found: dict[str, float] = {}
    if column in system.figures:
        interval = system.figures[column].interval
        found = {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    value = made.in_paper(system, column)
    return found if value is None else found | {f"{name}_paper": value}


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
