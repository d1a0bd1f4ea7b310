"""The table that compares methods, each at the setting that validation data chose, and the tests between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sparsepo.evaluation.significance import Difference, pairwise_differences
from sparsepo.report.tables.metrics import Metric, in_order, metric_of
from sparsepo.report.tables.published import Published
from sparsepo.report.tables.systems import ColumnKey, System, build_systems, described_metrics
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress


@dataclass(frozen=True)
class Comparison:
    """Systems in rows, their estimates in columns.

    `select` is the metric that chose their settings, on validation data unless `selected_on_test`; `differences` has
    every pair of systems in each column.
    """

    systems: Sequence[System]
    columns: Sequence[ColumnKey]
    select: str
    baseline: System | None
    differences: Mapping[ColumnKey, Sequence[Difference]]
    published: Published
    selected_on_test: bool = False
    described: Mapping[str, Metric] = field(default_factory=dict)
    """The metrics that measure files describe, see `described_metrics`."""

    def metric(self, name: str) -> Metric:
        return self.described[name] if name in self.described else metric_of(name)

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(variant for variant, _ in self.columns))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for _, metric in self.columns))

    @property
    def covers_training(self) -> bool:
        """Whether every number of a system but SFT, which is one given model, is of several seeds."""
        trained = [system for system in self.systems if system.method != "sft"]
        return all(estimate.runs > 1 for system in trained for estimate in system.estimates.values())

    def systems_of(self, method: str) -> int:
        """How many rows are of a method."""
        return sum(system.method == method for system in self.systems)

    def published_value(self, system: System, column: ColumnKey) -> float | None:
        """What the paper prints for a system's method; None where it prints nothing."""
        variant, metric = column
        row = self.published.row(system.method, system.params) or {}
        return row.get(f"{metric} {variant}" if variant else metric)


def compare(files: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], published: Published) -> Comparison:
    """Every method at its setting of best `settings["select"]` on validation data, with its estimates on test data; or,
    where `settings["rows"]` is "settings", every setting of every method.

    files: the measure files of all runs of a task, in the order of the config. `settings["baseline"]` is the method
    that the marks compare with; None: `dpo` if there is a run of it, else `sft`. Raises UserError for a baseline
    without a run and where `select` cannot choose.
    """
    systems = build_systems(files, settings["select"], settings["rows"])
    columns = _ordered_columns(systems)
    differences = {}
    for column in progress(columns, len(columns), "comparing"):
        measured = [system for system in systems if column in system.estimates]
        differences[column] = pairwise_differences({one.name: one.estimates[column].sample for one in measured})
    baseline = _baseline(systems, settings["baseline"])
    on_test = settings["selected_on_test"]
    return Comparison(
        systems, columns, settings["select"], baseline, differences, published, on_test, described_metrics(files)
    )


def comparison_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per variant and system: each metric with its bounds, and `_paper` where the paper has a value.

    Units are the printed ones (win rate and pass@k in percent). Missing values are nan.
    """
    rows = []
    for variant in comparison.variants:
        for system in comparison.systems:
            row: dict[str, Any] = {"label": system.label, "method": system.method, "params": system.params}
            row |= {"seeds": system.seeds, "variant": variant}
            for name in [name for at, name in comparison.columns if at == variant]:
                if (variant, name) in system.estimates:
                    interval = system.estimates[variant, name].interval
                    row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
                paper = comparison.published_value(system, (variant, name))
                row |= {} if paper is None else {f"{name}_paper": paper}
            rows.append(row)
    return pd.DataFrame(rows)


def differences_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per metric, variant and pair of systems: the mean of a - b over shared prompts, and its test.

    Bounds and `p` count prompts and trainings, `p_holm` is after Holm's correction over the pairs of one metric and
    variant. The last column is yes or no by `p_holm`, and empty where nothing could be tested: `real`, or, where a
    trained system has one seed, so that the variation between trainings is not known, `real for these trained models`.
    """
    names = "system_a system_b metric variant prompts difference low high p p_holm".split()
    names.append("real" if comparison.covers_training else "real for these trained models")
    rows = [
        (pair.a, pair.b, metric, variant, pair.prompts, pair.difference, pair.low, pair.high, pair.p)
        + (pair.p_holm, ("yes" if pair.is_significant else "no") if pair.is_tested else "")
        for (variant, metric), pairs in comparison.differences.items()
        for pair in pairs
    ]
    return pd.DataFrame(rows, columns=names)


def _ordered_columns(systems: Sequence[System]) -> list[ColumnKey]:
    """Every (variant, metric) of some system: variants in their order, metrics in that of the table of metrics."""
    columns = dict.fromkeys(column for system in systems for column in system.estimates)
    variants = dict.fromkeys(variant for variant, _ in columns)
    metrics = in_order(list(dict.fromkeys(metric for _, metric in columns)))
    return [(variant, metric) for variant in variants for metric in metrics if (variant, metric) in columns]


def _baseline(systems: Sequence[System], method: str | None) -> System | None:
    """The system of the configured method, else DPO, else SFT, else None."""
    first: dict[str, System] = {}
    for system in systems:
        first.setdefault(system.method, system)
    if method is not None and method not in first:
        raise UserError(f"evaluation.baseline: there is no run of '{method}'; there are {', '.join(first)}")
    return next((first[name] for name in (method, "dpo", "sft") if name in first), None)
