"""The systems that a table compares: each method at its chosen point, with every figure on test data."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparsepo.evaluation.significance import Difference, Measurements, select_point
from sparsepo.evaluation.statistics import Interval, group_means, mean_interval, student_interval
from sparsepo.report.run_names import params_text
from sparsepo.report.tables.metrics import metric_of
from sparsepo.report.tables.published import Published

Column = tuple[str, str]
"""(variant, metric); the variant is a temperature or a suite, or "" where there is but one."""

SEEDS, PROMPTS, ERROR, NONE = "seeds", "prompts", "error", "none"


@dataclass(frozen=True)
class Figure:
    """A mean with its 95% interval, in printed units.

    `over` is what the interval is made of, `runs` how many seeds have the metric, `items` each prompt's mean over them.
    """

    interval: Interval
    over: str
    runs: int
    items: Mapping[Hashable, float]


@dataclass(frozen=True)
class System:
    """A method at one point. `points`: how many there were to choose from; `notes`: (what to know, of which run).

    `name` is its own among the systems of a table.
    """

    name: str
    method: str
    label: str
    params: str
    seeds: int
    points: int
    figures: Mapping[Column, Figure]
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Comparison:
    """Systems in rows, their figures in columns.

    `select` is the metric that chose their points; `differences` has every pair of systems in each column.
    """

    systems: Sequence[System]
    columns: Sequence[Column]
    select: str
    baseline: System | None
    differences: Mapping[Column, Sequence[Difference]]
    published: Published

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(variant for variant, _ in self.columns))

    def in_paper(self, system: System, column: Column) -> float | None:
        """What the paper prints of a system's method, None where it prints nothing."""
        variant, metric = column
        name = f"{metric} {variant}" if variant else metric
        row = self.published.figures.get(system.method, {})
        return row[name] if name in row else None


def systems(files: Sequence[Mapping[str, Any]], select: str, rows: str) -> list[System]:
    """A system for each of the `methods`, or for each of their `settings`; SFT first, then in the order given.

    files: measure files of all runs, any number a run. The metric `select` on the validation split chooses the point of
    a method; only then is the test split read. Raises UserError if it cannot choose.
    """
    grids: dict[str, dict[str, list]] = {}
    for file in sorted(files, key=lambda file: file["method"] != "sft"):
        params = params_text(file["params"])
        name = f"{file['method']} {params}".strip() if rows == "settings" else file["method"]
        grids.setdefault(name, {}).setdefault(params, []).append(file)
    return [_system(name, points, select) for name, points in grids.items()]


def figure(measurements: Sequence[Mapping[str, Any]], scale: float) -> Figure:
    """The figure of one metric at one variant from the measurements of each seed.

    Two or more seeds: Student's t over their means. One: a bootstrap of whole prompts, or 1.96 standard errors of a
    number without items, or no bounds.
    """
    values = [scale * value for found in measurements for value in found["values"]]
    items = group_means(values, [label for found in measurements for label in found["groups"]])
    means = [scale * fmean(found["values"]) for found in measurements]
    if len(means) > 1:
        return Figure(student_interval(means), SEEDS, len(means), items)
    if len(items) > 1:
        return Figure(mean_interval(values, measurements[0]["groups"]), PROMPTS, 1, items)
    error = measurements[0].get("stderr")
    if error is None:
        return Figure(Interval(means[0], float("nan"), float("nan")), NONE, 1, items)
    half = 1.96 * scale * error
    return Figure(Interval(means[0], means[0] - half, means[0] + half), ERROR, 1, items)


def _system(name: str, points: Mapping[str, list], select: str) -> System:
    validation = {point: _by_run(files, "validation") for point, files in points.items()}
    params = select_point(validation, select, metric_of(select).higher_is_better)
    files = points[params]
    runs = _by_run(files, "test")
    columns = dict.fromkeys(column for run in runs for column in _columns(run))
    figures = {
        (variant, metric): figure([run[variant][metric] for run in runs if (variant, metric) in _columns(run)], scale)
        for variant, metric in columns
        for scale in [metric_of(metric).scale]
    }
    label = files[0]["label"]
    notes = tuple((note, _named(file, len(runs))) for file in files for note in file["notes"])
    return System(name, files[0]["method"], label, params, len(runs), len(points), figures, notes)


def _by_run(files: Iterable[Mapping[str, Any]], split: str) -> list[Measurements]:
    """What the files of each run say of a split, merged; a file without the split adds nothing."""
    runs: dict[str, dict[str, dict]] = {}
    for file in files:
        run = runs.setdefault(file["run"], {})
        for variant, measured in file["splits"].get(split, {}).items():
            run.setdefault(variant, {}).update(measured)
    return list(runs.values())


def _columns(run: Measurements) -> list[Column]:
    return [(variant, name) for variant, found in run.items() for name, numbers in found.items() if numbers["values"]]


def _named(file: Mapping[str, Any], runs: int) -> str:
    return file["label"] if runs == 1 else f"{file['label']} seed {file['seed']}"
