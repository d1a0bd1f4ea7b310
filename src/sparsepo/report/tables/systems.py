"""The systems that a table compares: each method at its chosen setting, with every estimate on test data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sparsepo.evaluation.significance import Measurements, select_point
from sparsepo.evaluation.statistics import (
    Interval,
    SeedSample,
    choosing_factor,
    interval_of_means,
    sample_interval,
    seed_sample,
)
from sparsepo.report.run_names import params_text
from sparsepo.report.tables.metrics import Metric, metric_of

ColumnKey = tuple[str, str]
"""(variant, metric); the variant is a temperature or a suite, or "" where there is only one."""

PROMPTS_AND_SEEDS, PROMPTS, SEEDS, STANDARD_ERROR, NONE = (
    "prompts and seeds", "prompts", "seeds", "standard error", "none"
)  # fmt: skip


@dataclass(frozen=True)
class MetricEstimate:
    """A metric of a system at one variant, in printed units.

    `sample` has its values by seed and prompt; `scale` is that of the units. errors: for numbers without single items
    their standard errors, None where unknown; it is None where there are items.
    """

    sample: SeedSample
    scale: float = 1.0
    is_share: bool = False
    errors: tuple[float | None, ...] | None = None

    @property
    def runs(self) -> int:
        """How many seeds have the metric."""
        return len(self.sample.sums)

    @cached_property
    def interval(self) -> Interval:
        """The mean over seeds with its 95% interval."""
        return self.interval_at(0.95)

    def interval_at(self, level: float) -> Interval:
        """The same at another level."""
        if self.errors is None:
            values = self.sample.sums / self.scale, self.sample.counts
            unscaled = SeedSample(self.sample.prompts, *values, self.sample.seed_factor)
            raw = sample_interval(unscaled, share=self.is_share, level=level)
            return Interval(*(self.scale * value for value in vars(raw).values()))
        return interval_of_means((self.sample.sums / self.sample.counts)[:, 0].tolist(), self.errors, level)

    @property
    def source(self) -> str:
        """What the interval is computed from."""
        if math.isnan(self.interval.low):
            return NONE
        if self.errors is None:
            return PROMPTS_AND_SEEDS if self.runs > 1 else PROMPTS
        return SEEDS if self.runs > 1 else STANDARD_ERROR


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
    setting of a method; only then is the test split read. Of several seeds each is measured at the setting that the
    others choose; where that is another one, a note says so. Raises UserError if it cannot choose.
    """
    grids: dict[str, dict[str, list]] = {}
    for file in sorted(files, key=lambda file: file["method"] != "sft"):
        params = params_text(file["params"])
        name = f"{file['method']} {params}".strip() if rows == "settings" else file["method"]
        grids.setdefault(name, {}).setdefault(params, []).append(file)
    metric = described_metrics(files).get(select) or metric_of(select)
    return [_build_system(name, settings, select, metric.higher_is_better) for name, settings in grids.items()]


def described_metrics(files: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """The metrics whose direction the measure files give: of lm-eval's tasks, with its name, and of the user's."""
    return {
        name: Metric(
            f"{name} ({measurement['metric']})" if "metric" in measurement else name,
            higher_is_better=measurement["higher_is_better"],
        )
        for file in files
        for split in file["splits"].values()
        for measurements in split.values()
        for name, measurement in measurements.items()
        if "higher_is_better" in measurement
    }


def estimate(measurements: Sequence[Mapping[str, Any]], metric: Metric, seeds_choose: bool = False) -> MetricEstimate:
    """The estimate of one metric at one variant from the measurements of each seed.

    seeds_choose: whether seeds chose the setting for each other, so that they are not independent.
    """
    raw = [value for measurement in measurements for value in measurement["values"]]
    prompts = [prompt for measurement in measurements for prompt in measurement["groups"]]
    seeds = [seed for seed, measurement in enumerate(measurements) for _ in measurement["values"]]
    sample = seed_sample([metric.scale * value for value in raw], prompts, seeds)
    sample = replace(sample, seed_factor=choosing_factor(len(sample.counts))) if seeds_choose else sample
    if len(sample.prompts) == 1 and len(raw) == len(measurements):
        errors = [measurement.get("stderr") for measurement in measurements]
        scaled = tuple(None if error is None else metric.scale * error for error in errors)
        return MetricEstimate(sample, metric.scale, metric.is_share, scaled)
    return MetricEstimate(sample, metric.scale, metric.is_share or set(raw) == {0.0, 1.0})


def _build_system(name: str, settings: Mapping[str, list], select: str, higher_is_better: bool | None) -> System:
    validation = {params: _measurements_by_run(files, "validation") for params, files in settings.items()}
    params = select_point(validation, select, higher_is_better)
    by_seed = _settings_by_seed(settings, params, select, higher_is_better)
    files = [file for seed, own in by_seed.items() for file in settings[own] if file["seed"] == seed]
    runs = _measurements_by_run(files, "test")
    measured: dict[ColumnKey, list[Mapping[str, Any]]] = {}
    for variant, metrics in (item for run in runs for item in run.items()):
        for metric, measurement in metrics.items():
            if measurement["values"]:
                measured.setdefault((variant, metric), []).append(measurement)
    estimates = {column: estimate(own, metric_of(column[1]), len(settings) > 1) for column, own in measured.items()}
    first, several = files[0], len(runs) > 1
    names = {file["run"]: f"{file['label']} seed {file['seed']}" if several else file["label"] for file in files}
    notes = tuple((note, names[file["run"]]) for file in files for note in file["notes"])
    others = {file["run"]: by_seed[file["seed"]] for file in files if by_seed[file["seed"]] != params}
    notes += tuple((f"measured at {own}, which the other seeds choose", names[run]) for run, own in others.items())
    return System(name, first["method"], first["label"], params, len(runs), len(settings), estimates, notes)


def _settings_by_seed(
    settings: Mapping[str, list], chosen: str, select: str, higher_is_better: bool | None
) -> dict[Any, str]:
    """Seed -> the setting that the validation data of the other seeds choose; `chosen` where there are none.

    A setting that was chosen for the luck of a training is so not measured on the same training.
    """
    result = {}
    for seed in dict.fromkeys(file["seed"] for file in settings[chosen]):
        others = {params: [file for file in files if file["seed"] != seed] for params, files in settings.items()}
        has_seed = all(any(file["seed"] == seed for file in files) for files in settings.values())
        result[seed] = chosen
        if has_seed and all(others.values()):
            points = {params: _measurements_by_run(files, "validation") for params, files in others.items()}
            if all(any(select in metrics for run in runs for metrics in run.values()) for runs in points.values()):
                result[seed] = select_point(points, select, higher_is_better)
    return result


def _measurements_by_run(files: Iterable[Mapping[str, Any]], split: str) -> list[Measurements]:
    """The merged measurements of each run on a split; a file without the split adds nothing."""
    runs: dict[str, dict[str, dict]] = {}
    for file in files:
        run = runs.setdefault(file["run"], {})
        for variant, measurements in file["splits"].get(split, {}).items():
            run.setdefault(variant, {}).update(measurements)
    return list(runs.values())
