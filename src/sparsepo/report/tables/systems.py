"""The systems that a table compares: each method at its chosen setting, with every estimate on test data."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparsepo.evaluation.significance import Measurements, select_point
from sparsepo.evaluation.statistics import Interval, group_means, mean_interval, student_interval
from sparsepo.report.run_names import params_text
from sparsepo.report.tables.metrics import metric_of

ColumnKey = tuple[str, str]
"""(variant, metric); the variant is a temperature or a suite, or "" where there is only one."""

SEEDS, PROMPTS, STANDARD_ERROR, NONE = "seeds", "prompts", "standard error", "none"


@dataclass(frozen=True)
class MetricEstimate:
    """A mean with its 95% interval, in printed units.

    `source` is what the interval is computed from, `runs` how many seeds have the metric, `items` each prompt's mean
    over them.
    """

    interval: Interval
    source: str
    runs: int
    items: Mapping[Hashable, float]


@dataclass(frozen=True)
class System:
    """A method at one setting. `name` is unique in a table; `candidates` is the number of settings to choose from.

    notes: (text, label of the run).
    """

    name: str
    method: str
    label: str
    params: str
    seeds: int
    candidates: int
    estimates: Mapping[ColumnKey, MetricEstimate]
    notes: tuple[tuple[str, str], ...]


def build_systems(files: Sequence[Mapping[str, Any]], select: str, rows: str) -> list[System]:
    """One system per method (`rows` is "methods") or per setting ("settings"); SFT first, then in the order given.

    files: measure files of all runs, any number per run. The metric `select` on the validation split chooses the
    setting of a method; only then is the test split read. Raises UserError if it cannot choose.
    """
    grids: dict[str, dict[str, list]] = {}
    for file in sorted(files, key=lambda file: file["method"] != "sft"):
        params = params_text(file["params"])
        name = f"{file['method']} {params}".strip() if rows == "settings" else file["method"]
        grids.setdefault(name, {}).setdefault(params, []).append(file)
    return [_build_system(name, settings, select) for name, settings in grids.items()]


def estimate(measurements: Sequence[Mapping[str, Any]], scale: float) -> MetricEstimate:
    """The estimate of one metric at one variant from the measurements of each seed.

    Two or more seeds: Student's t over their means. One seed: a bootstrap of whole prompts, or 1.96 standard errors of
    a number without items, or no bounds.
    """
    values = [scale * value for measurement in measurements for value in measurement["values"]]
    items = group_means(values, [group for measurement in measurements for group in measurement["groups"]])
    means = [scale * fmean(measurement["values"]) for measurement in measurements]
    if len(means) > 1:
        return MetricEstimate(student_interval(means), SEEDS, len(means), items)
    if len(items) > 1:
        return MetricEstimate(mean_interval(values, measurements[0]["groups"]), PROMPTS, 1, items)
    error = measurements[0].get("stderr")
    if error is None:
        return MetricEstimate(Interval(means[0], float("nan"), float("nan")), NONE, 1, items)
    half = 1.96 * scale * error
    return MetricEstimate(Interval(means[0], means[0] - half, means[0] + half), STANDARD_ERROR, 1, items)


def _build_system(name: str, settings: Mapping[str, list], select: str) -> System:
    validation = {params: _measurements_by_run(files, "validation") for params, files in settings.items()}
    params = select_point(validation, select, metric_of(select).higher_is_better)
    files = settings[params]
    runs = _measurements_by_run(files, "test")
    measured: dict[ColumnKey, list[Mapping[str, Any]]] = {}
    for variant, metrics in (item for run in runs for item in run.items()):
        for metric, measurement in metrics.items():
            if measurement["values"]:
                measured.setdefault((variant, metric), []).append(measurement)
    estimates = {column: estimate(own, metric_of(column[1]).scale) for column, own in measured.items()}
    first, several = files[0], len(runs) > 1
    notes = tuple(
        (note, f"{file['label']} seed {file['seed']}" if several else file["label"])
        for file in files
        for note in file["notes"]
    )
    return System(name, first["method"], first["label"], params, len(runs), len(settings), estimates, notes)


def _measurements_by_run(files: Iterable[Mapping[str, Any]], split: str) -> list[Measurements]:
    """The merged measurements of each run on a split; a file without the split adds nothing."""
    runs: dict[str, dict[str, dict]] = {}
    for file in files:
        run = runs.setdefault(file["run"], {})
        for variant, measurements in file["splits"].get(split, {}).items():
            run.setdefault(variant, {}).update(measurements)
    return list(runs.values())
