"""The settings of each stage: what its script reads of the config.

Snakemake runs a job again when its settings change. So they hold what can change the output of the stage, and nothing
else: `only_fields` and `without_fields` leave out fields of a section, for which the script sees defaults.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, PlainSerializer, ValidationError

from sparsepo import __version__
from sparsepo.config import TaskConfig
from sparsepo.config.base import MAX_INT, Section
from sparsepo.config.data import DataConfig
from sparsepo.config.evaluation import BenchmarkConfig, CodeConfig, SummaryConfig
from sparsepo.config.models import ChatOptions, ModelConfig
from sparsepo.config.online import OnPolicyConfig, judge_of_rounds, reward_of, sampling_of_rounds
from sparsepo.config.preferences import (
    ExecutedPreferences,
    ExecutionConfig,
    FilePreferences,
    GeneratedPreferences,
    SamplingConfig,
)
from sparsepo.config.runs import oracle_of, oracle_selected_runs, runs_of
from sparsepo.config.scorers import JudgeConfig, ScorerConfig
from sparsepo.config.training import PreferenceConfig, SftConfig
from sparsepo.methods.registry import DEFAULT_INSPECTION_METHOD, METHODS, inspection_method
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.files import file_hash
from sparsepo.runtime.validation import error_message
from sparsepo.workflow.job import Job, Loading, Splits, runs_together

PUBLISHED = Path(__file__).parents[1] / "report" / "tables" / "published.yaml"
"""Figures of the paper, which a table may show beside ours."""


@dataclass(frozen=True)
class FromJob:
    """Annotation of a field of settings that is not what the job has under its name: how it is taken from the job."""

    of: Callable[[Job], Any]


def only_fields(*names: str) -> PlainSerializer:
    """Annotation of a section of which these fields alone are passed on."""
    return PlainSerializer(lambda section: section.model_dump(mode="json", include=_checked(names, section)))


def without_fields(*names: str) -> PlainSerializer:
    """Annotation of a section of which all fields but these are passed on."""
    return PlainSerializer(lambda section: section.model_dump(mode="json", exclude=_checked(names, section)))


def _checked(names: tuple[str, ...], section: BaseModel) -> set[str]:
    """A name that is no field of the section would go unnoticed."""
    assert type(section).model_fields.keys() >= set(names), set(names) - type(section).model_fields.keys()
    return set(names)


def as_plain(section: BaseModel | None) -> dict[str, Any] | None:
    return None if section is None else section.model_dump(mode="json")


class JobSection(Section):
    """Settings that are taken from a job."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """Of each field what is FromJob, or what the job has under its name; of `user_files` nothing."""
        values = {}
        for name, field in cls.model_fields.items():
            taken = [each.of for each in field.metadata if isinstance(each, FromJob)]
            if name != "user_files":
                values[name] = taken[0](job) if taken else job.value(name)
        return cls(**values)


class StageSettings(JobSection):
    """The settings of a stage; this class itself where a stage reads nothing of the config.

    `user_files`: path -> hash of each file or folder that the other settings name, so that a change is seen.
    """

    user_files: dict[str, str] = Field({}, exclude_if=lambda files: not files)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The settings in a JSON text. Raises UserError with one line for each field that is wrong."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            lines = [f"--settings: {'.'.join(map(str, each['loc']))}: {error_message(each)}" for each in error.errors()]
            raise UserError("\n".join(lines)) from None

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def as_json(self) -> str:
        """JSON with sorted keys, which Snakemake compares."""
        return json.dumps(self.as_dict(), sort_keys=True)


TrustedLoading = Annotated[Loading, FromJob(lambda job: job.trusted_loading)]
PolicyLoading = Annotated[Loading, FromJob(lambda job: job.policy_loading)]
ReferencePass = Annotated[
    PreferenceConfig,
    only_fields(
        "max_prompt_tokens", "max_response_tokens", "precision", "layout", "micro_batch_size", "micro_batch_tokens"
    ),
]
"""What a forward pass of a frozen model over pairs depends on."""


def where_source_is(section: str, source: str) -> FromJob:
    """A section of the task that is read where its data have this source, and None elsewhere."""
    return FromJob(lambda job: getattr(job.section, section) if job.section.data.source == source else None)


def where_executed(value: Callable[[Job], Any]) -> FromJob:
    """A value that is read where preferences are programs that are executed, and None elsewhere."""
    return FromJob(lambda job: value(job) if job.section.preferences.source == "executed" else None)


# --- data, preference pairs, cached outputs of the reference, scores of tokens


WEIGHTS = {"seed", "dtype", "pickled_weights"}
"""Keys of a model that its tokenizer and its context do not depend on."""


def max_new_tokens(task: TaskConfig) -> int:
    """The most tokens of any response that is sampled in a task."""
    own = task.evaluation
    sections = (task.preferences, own.code)
    samplings = [task.sampling, own.generation, *(getattr(section, "sampling", None) for section in sections)]
    return max(sampling.max_new_tokens for sampling in samplings if sampling is not None)


def chat_options(model: ModelConfig) -> ChatOptions:
    """How the prompts of a model become text."""
    return ChatOptions(**{name: getattr(model, name) for name in ChatOptions.model_fields})


class PromptSettings(StageSettings):
    """How long prompts may be, beside responses of `max_new_tokens`."""

    max_prompt_tokens: Annotated[int, FromJob(lambda job: job.section.training.max_prompt_tokens)]
    max_new_tokens: Annotated[int, FromJob(lambda job: max_new_tokens(job.section))]


class PrepareDataSettings(PromptSettings):
    """`name` is the config's, which marks its results. `columns`: see PromptBuilder."""

    name: Annotated[str, FromJob(lambda job: job.config_name)]
    data: DataConfig
    columns: dict[str, bool]
    preferences: Annotated[FilePreferences | None, where_source_is("preferences", "preferences")]
    model: Annotated[ModelConfig, PlainSerializer(lambda model: model.model_dump(mode="json", exclude=WEIGHTS))]
    execution: Annotated[ExecutionConfig | None, where_source_is("execution", "problems")]


class FitScorerSettings(StageSettings):
    """`pairs`: whether the labelled documents are pairs of a chosen and a rejected response."""

    seed: Annotated[int, FromJob(lambda job: job.section.data.seed)]
    pairs: Annotated[bool, FromJob(lambda job: job.section.data.source == "preferences")]


class BuildPreferencesSettings(PromptSettings):
    """Each of the `epochs` of executed preferences has pairs of its own."""

    preferences: Annotated[GeneratedPreferences | FilePreferences | ExecutedPreferences, Field(discriminator="source")]
    loading: TrustedLoading
    chat: Annotated[ChatOptions, FromJob(lambda job: chat_options(job.section.model))]
    on_long_prompt: Annotated[str, FromJob(lambda job: job.section.data.on_long_prompt)]
    data: Annotated[DataConfig | None, where_executed(lambda job: job.section.data)]
    execution: Annotated[ExecutionConfig | None, where_executed(lambda job: job.section.execution)]
    epochs: Annotated[float | None, where_executed(lambda job: job.section.training.num_train_epochs)]


class CacheReferenceSettings(StageSettings):
    training: ReferencePass
    loading: TrustedLoading


class BuildRoundPairsSettings(CacheReferenceSettings):
    """The seed is that of the run. Nothing of the method: the judge sees texts alone."""

    seed: int
    sampling: Annotated[SamplingConfig, FromJob(lambda job: sampling_of_rounds(job.section)), without_fields("seed")]
    judge: Annotated[JudgeConfig, FromJob(lambda job: judge_of_rounds(job.section))]


def _the_oracle(job: Job) -> tuple[str, Any]:
    """Name and section of the only oracle of the section of a job."""
    return next(iter(job.section.oracles.items()))


class SelectOraclePairsSettings(StageSettings):
    """`share`: of the prompts that have pairs, a choice by `seed`."""

    task: str
    oracle: Annotated[str, FromJob(lambda job: _the_oracle(job)[0])]
    share: Annotated[float, FromJob(lambda job: _the_oracle(job)[1].share)]
    seed: int
    max_prompt_tokens: Annotated[int, FromJob(lambda job: job.section.training.max_prompt_tokens)]
    max_response_tokens: Annotated[int, FromJob(lambda job: job.section.training.max_response_tokens)]


def _planted_truth(oracle: Any) -> str | None:
    return oracle.truth if oracle.objective == "planted" else None


def _scoring_loading(job: Job, key: str) -> Loading:
    """How a model that scores tokens is loaded: as a plain one if the oracle has this key, as then it was trained."""
    return job.trusted_loading if getattr(_the_oracle(job)[1], key) else job.reference_loading


class ScoreTokensSettings(StageSettings):
    """`truth`: None where the scores are not what is planted."""

    score: Annotated[str, FromJob(lambda job: _the_oracle(job)[1].score)]
    truth: Annotated[str | None, FromJob(lambda job: _planted_truth(_the_oracle(job)[1]))]
    training: ReferencePass
    oracle_loading: Annotated[Loading, FromJob(lambda job: _scoring_loading(job, "is_trained"))]
    base_loading: Annotated[Loading, FromJob(lambda job: _scoring_loading(job, "contrast"))]


# --- training


class TrainSftSettings(StageSettings):
    model: ModelConfig
    sft: SftConfig | None
    loading: TrustedLoading


class LoadPolicySettings(TrainSftSettings):
    """The same of the model that policies start from, without SFT."""

    @classmethod
    def of(cls, job: Job) -> Self:
        update = {"model": job.section.policy, "sft": None}
        return super().of(replace(job, section=job.section.model_copy(update=update)))


class FrontierSettings(JobSection):
    """How the policy is sampled and scored for a point of the frontier during training: one response a prompt."""

    sampling: Annotated[SamplingConfig, without_fields("samples")]
    scorer: ScorerConfig
    prompts: Annotated[int, FromJob(lambda job: job.section.evaluation.frontier_prompts)]
    batch_size: int


class TrainingSettings(StageSettings):
    """A method with all its parameters, of a run or of an oracle, the only run of its section.

    `definition`: its row of the table of methods, so that a change is seen. `frontier`: None where no point of the
    frontier is measured.
    """

    method: Annotated[str, FromJob(lambda job: job.run.method)]
    hyper: Annotated[dict[str, Any], FromJob(lambda job: METHODS[job.run.method].resolve(job.run.hyper))]
    definition: Annotated[dict[str, Any], FromJob(lambda job: METHODS[job.run.method].definition)]
    seed: int
    loading: TrustedLoading
    frontier: Annotated[
        FrontierSettings | None,
        FromJob(lambda job: FrontierSettings.of(job) if job.section.training.frontier_every else None),
    ]


class TrainPolicySettings(TrainingSettings):
    training: Annotated[PreferenceConfig, without_fields("rounds", "on_policy", "together")]


def _settings_together(job: Job) -> dict[str, TrainPolicySettings]:
    runs = runs_together(job.section).get(job.run_path, ())
    return {run: TrainPolicySettings.of(replace(job, run_path=run)) for run in runs}


class TrainTogetherSettings(StageSettings):
    """Run -> its settings; empty where a run is trained alone."""

    runs: Annotated[dict[str, TrainPolicySettings], FromJob(_settings_together)]


class TrainRoundSettings(TrainPolicySettings):
    """A round is measured at its end wherever there is a scorer, even if no step before it is."""

    @classmethod
    def of(cls, job: Job) -> Self:
        every = job.section.training.frontier_every or MAX_INT
        update = {"frontier_every": every if job.section.evaluation.scorer is not None else 0}
        training = job.section.training.model_copy(update=update)
        return super().of(replace(job, section=job.section.model_copy(update={"training": training})))


def _fits_words(job: Job) -> tuple[bool, bool]:
    """Whether a target is fitted, which reads all of `on_policy`; and to words, in place of a scorer."""
    fits = "target_mean" in METHODS[job.run.method].hyper
    return fits, fits and bool(job.section.training.on_policy.words)


def _on_policy(job: Job) -> OnPolicyConfig:
    own = job.section.training.on_policy
    return own if _fits_words(job)[0] else OnPolicyConfig(samples=own.samples)


class TrainOnPolicySettings(TrainingSettings):
    """Of `training` what is about pairs is left out; the number and the seed of the final samples change nothing."""

    training: Annotated[
        PreferenceConfig,
        without_fields(
            *("validate_every", "checkpoint_selection", "micro_batch_tokens", "layout", "gradients", "log_kl"),
            *("reference", "rounds", "on_policy", "mask_learning_rate", "mask_weight_decay", "max_response_tokens"),
            *("num_processes", "num_machines", "accelerate", "compile", "together"),
        ),
    ]
    on_policy: Annotated[OnPolicyConfig, FromJob(_on_policy)]
    sampling: Annotated[SamplingConfig, only_fields("max_new_tokens", "batch_size")]
    scorer: Annotated[ScorerConfig | None, FromJob(lambda job: None if _fits_words(job)[1] else reward_of(job.section))]


# --- samples and measures of trained policies


class SampleResponsesSettings(StageSettings):
    """`prompts`: the first so many of a split, or all; `single_turn`: first turns of dialogues only."""

    sampling: Annotated[SamplingConfig, without_fields("temperature")]
    temperatures: Annotated[list[float], FromJob(lambda job: [job.section.sampling.temperature])]
    splits: Annotated[Splits, FromJob(lambda job: job.splits("scores"))]
    prompts: Annotated[int | None, FromJob(lambda job: None)]
    single_turn: Annotated[bool, FromJob(lambda job: False)]
    loading: PolicyLoading


class SampleGenerationsSettings(SampleResponsesSettings):
    """The same of the section `generation`."""

    @classmethod
    def of(cls, job: Job) -> Self:
        generation, own = job.section.evaluation.generation, {"temperatures", "prompts", "single_turn"}
        sampling = SamplingConfig(**generation.model_dump(exclude=own))
        splits = job.splits("summaries", "win_rate")
        return cls(sampling=sampling, splits=splits, loading=job.policy_loading, **generation.model_dump(include=own))


class SampleProgramsSettings(StageSettings):
    code: Annotated[CodeConfig, without_fields("k", "mbpp_plus", "humaneval_plus")]
    splits: Annotated[Splits, FromJob(lambda job: job.splits("pass_at_k"))]
    loading: PolicyLoading


def _inspected(job: Job) -> str:
    """The method whose loss is shown for pairs."""
    return inspection_method(job.run.method) if job.run else DEFAULT_INSPECTION_METHOD


def _inspected_hyper(job: Job) -> dict[str, Any]:
    """Parameters of the inspected method, with those values of the run that it has too."""
    row, given = METHODS[_inspected(job)], job.run.hyper if job.run else {}
    return row.resolve({key: given[key] for key in given if key in row.parameters})


class EvaluateRunSettings(StageSettings):
    """The method is the one whose loss is shown for pairs; `header` names that of the run."""

    method: Annotated[str, FromJob(_inspected)]
    hyper: Annotated[dict[str, Any], FromJob(_inspected_hyper)]
    definition: Annotated[dict[str, Any], FromJob(lambda job: METHODS[_inspected(job)].definition)]
    header: dict[str, Any]
    policy_loading: Loading
    reference_loading: Loading
    training: Annotated[PreferenceConfig, only_fields("max_prompt_tokens", "max_response_tokens")]
    planted: Annotated[bool, FromJob(lambda job: job.section.data.source == "planted")]
    token_pairs: int
    batch_size: int
    scorer: ScorerConfig | None
    extra_scorers: dict[str, ScorerConfig]


class MeasureSummariesSettings(StageSettings):
    header: dict[str, Any]
    summaries: SummaryConfig
    splits: Annotated[Splits, FromJob(lambda job: job.splits("summaries"))]


class MeasureWinRateSettings(StageSettings):
    """`chosen`: whether responses are compared with the chosen ones. `opponents`: name -> run, see `Job.opponents`."""

    header: dict[str, Any]
    judges: dict[str, JudgeConfig]
    chosen: Annotated[bool, FromJob(lambda job: "chosen" in job.section.evaluation.win_rate_against)]
    opponents: dict[str, str]
    splits: Annotated[Splits, FromJob(lambda job: job.splits("win_rate"))]


class MeasureBenchmarksSettings(StageSettings):
    header: dict[str, Any]
    benchmarks: BenchmarkConfig
    loading: PolicyLoading
    chat: Annotated[
        ChatOptions,
        FromJob(lambda job: chat_options(job.section.model)),
        without_fields("chat_template", "add_generation_prompt"),
    ]


class MeasurePassAtKSettings(StageSettings):
    header: dict[str, Any]
    k: Annotated[list[int], FromJob(lambda job: job.section.evaluation.code.k)]
    plus: Annotated[dict[str, Path], FromJob(lambda job: job.section.evaluation.code.plus)]
    validation_samples: Annotated[int, FromJob(lambda job: job.section.evaluation.code.validation_samples)]
    data: DataConfig
    execution: ExecutionConfig


# --- tables, figures and the page


class MakeGridTableSettings(StageSettings):
    provenance: str
    csv_bom: bool = False


class MakeMatchedKlTableSettings(MakeGridTableSettings):
    pass


class MakeAucTableSettings(MakeGridTableSettings):
    pass


class CompareMethodsSettings(MakeGridTableSettings):
    """`select`: the metric that chooses a point of each grid. `published_figures`: a hash of the paper's figures."""

    select: Annotated[str, FromJob(lambda job: job.section.evaluation.selected_by)]
    selected_on_test: bool
    rows: str
    baseline: str | None
    published: str | None
    published_figures: Annotated[
        str | None, FromJob(lambda job: file_hash(PUBLISHED) if job.section.evaluation.published else None)
    ]


def _shares(job: Job) -> dict[str, float]:
    """Oracle whose scores select tokens in some run -> the share of the data that it was trained on."""
    task = job.section
    selecting = {oracle_of(task, run) for run in oracle_selected_runs(task)}
    return {name: oracle.share for name, oracle in task.oracles.items() if name in selecting}


class PlotSelectionSettings(StageSettings):
    shares: Annotated[dict[str, float], FromJob(_shares)]


def _runs_of_rounds(job: Job) -> list[str]:
    """Paths of the runs that train in rounds, in the order of the config."""
    return [run.path for run in runs_of(job.section) if METHODS[run.method].trainer == "rounds"]


class PlotRoundsSettings(StageSettings):
    runs: Annotated[list[str], FromJob(_runs_of_rounds)]


def _points(job: Job) -> list[str]:
    """Runs without seeds. With every run, a sweep of thousands would make too long a command line."""
    return list(dict.fromkeys(run.path.rsplit("/", 1)[0] for run in runs_of(job.section)))


class ReportTask(JobSection):
    """A task of the page: its config, the points of its grids, what is measured of the runs."""

    config: Annotated[dict[str, Any], FromJob(lambda job: job.resolved_config(without=("resources",)))]
    points: Annotated[list[str], FromJob(_points)]
    measures: list[str]
    compare: Annotated[CompareMethodsSettings, FromJob(CompareMethodsSettings.of), without_fields("csv_bom")]


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
