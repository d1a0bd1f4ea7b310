"""Settings of the stages that make tables, figures and the page."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from sparsepo import __version__
from sparsepo.config.base import Section
from sparsepo.config.runs import oracle_of, oracle_selected_runs, runs_of
from sparsepo.methods.registry import METHODS
from sparsepo.runtime.result_cache import file_hash
from sparsepo.workflow.settings.base import Job, StageSettings

PUBLISHED = Path(__file__).parents[2] / "report" / "tables" / "published.yaml"
"""Figures of the paper, which a table may show beside ours."""


class MakeGridTableSettings(StageSettings):
    """`provenance`: the line below a table that says what made it."""

    provenance: str

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(provenance=provenance(job))


def provenance(job: Job) -> str:
    """The config with a hash of the task's section, without `resources`, which change no result; the version."""
    section = json.dumps(job.section.model_dump(mode="json", exclude={"resources"}), sort_keys=True)
    digest = hashlib.sha256(section.encode()).hexdigest()[:12]
    return f"config {job.config_name}, task {job.task} (settings {digest}); sparsepo {__version__}"


class CompareMethodsSettings(StageSettings):
    """`select`: the metric that chooses a point of each grid. `published_figures`: a hash of the paper's figures."""

    provenance: str
    select: str
    rows: str
    baseline: str | None
    published: str | None
    published_figures: str | None = None

    @classmethod
    def of(cls, job: Job) -> Self:
        own = job.section.evaluation
        return cls(
            provenance=provenance(job),
            select=own.selected_by,
            rows=own.rows,
            baseline=own.baseline,
            published=own.published,
            published_figures=file_hash(PUBLISHED) if own.published else None,
        )


class PlotSelectionSettings(StageSettings):
    """`shares`: oracle whose scores select tokens in some run -> the share of the data that it was trained on."""

    shares: dict[str, float]

    @classmethod
    def of(cls, job: Job) -> Self:
        task = job.section
        selecting = {oracle_of(task, run) for run in oracle_selected_runs(task)}
        return cls(shares={name: oracle.share for name, oracle in task.oracles.items() if name in selecting})


class PlotRoundsSettings(StageSettings):
    """`runs`: paths of the runs that train in rounds, in the order of the config."""

    runs: list[str]

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(runs=[run.path for run in runs_of(job.section) if METHODS[run.method].trainer == "rounds"])


class ReportTask(Section):
    """A task of the page: its config, the points of its grids (runs without seeds), what is measured of the runs.

    With every run instead of the points, a sweep of thousands would make too long a command line.
    """

    config: dict[str, Any]
    points: list[str]
    measures: list[str]
    compare: CompareMethodsSettings

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(
            config=job.resolved_config(without=("resources",)),
            points=list(dict.fromkeys(run.path.rsplit("/", 1)[0] for run in runs_of(job.section))),
            measures=job.section.evaluation.measures,
            compare=CompareMethodsSettings.of(job),
        )


class BuildReportSettings(StageSettings):
    name: str
    version: str
    tasks: dict[str, ReportTask]

    @classmethod
    def of(cls, job: Job) -> Self:
        """Of all tasks of the config, whatever the task of the job."""
        sections = job.config.tasks.items()
        tasks = {task: ReportTask.of(replace(job, task=task, section=section)) for task, section in sections}
        return cls(name=job.config.name, version=__version__, tasks=tasks)
