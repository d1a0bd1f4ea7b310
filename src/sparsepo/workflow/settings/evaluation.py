"""Settings of the stages that sample trained policies and measure them."""

from typing import Annotated, Self

from sparsepo.config.data import DataConfig
from sparsepo.config.evaluation import BenchmarkConfig, CodeConfig, SummaryConfig
from sparsepo.config.preferences import ExecutionConfig, SamplingConfig
from sparsepo.config.scorers import JudgeConfig, ScorerConfig
from sparsepo.config.training import PreferenceConfig
from sparsepo.methods.registry import DEFAULT_INSPECTION_METHOD, METHODS, inspection_method
from sparsepo.workflow.settings.base import (
    Job,
    Loading,
    MethodSettings,
    Only,
    RunHeader,
    Splits,
    StageSettings,
    Without,
)


class SampleResponsesSettings(StageSettings):
    """`prompts`: the first so many of a split, or all; `single_turn`: first turns of dialogues only."""

    sampling: Annotated[SamplingConfig, Without("temperature")]
    temperatures: list[float]
    splits: Splits
    prompts: int | None
    single_turn: bool
    loading: Loading

    @classmethod
    def of(cls, job: Job) -> Self:
        sampling = job.section.sampling
        where = {"splits": job.splits("scores"), "prompts": None, "single_turn": False}
        return cls(sampling=sampling, temperatures=[sampling.temperature], loading=job.policy_loading, **where)


class SampleGenerationsSettings(SampleResponsesSettings):
    """The same of the section `generation`."""

    @classmethod
    def of(cls, job: Job) -> Self:
        generation, own = job.section.evaluation.generation, {"temperatures", "prompts", "single_turn"}
        sampling = SamplingConfig(**generation.model_dump(exclude=own))
        splits = max(job.splits("summaries"), job.splits("win_rate"), key=len)
        return cls(sampling=sampling, splits=splits, loading=job.policy_loading, **generation.model_dump(include=own))


class SampleProgramsSettings(StageSettings):
    code: Annotated[CodeConfig, Without("k")]
    splits: Splits
    loading: Loading

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(code=job.section.evaluation.code, splits=job.splits("pass_at_k"), loading=job.policy_loading)


class EvaluateRunSettings(MethodSettings):
    """The method is the one whose loss is shown for pairs; `header` names that of the run."""

    header: RunHeader
    policy_loading: Loading
    reference_loading: Loading
    training: Annotated[PreferenceConfig, Only("max_prompt_tokens", "max_response_tokens")]
    planted: bool
    token_pairs: int
    batch_size: int
    scorer: ScorerConfig | None
    extra_scorers: dict[str, ScorerConfig]

    @classmethod
    def of(cls, job: Job) -> Self:
        task, own, run = job.section, job.section.evaluation, job.run
        method = inspection_method(run.method) if run else DEFAULT_INSPECTION_METHOD
        given = run.hyper if run else {}
        return cls(
            **cls.method_fields(method, {key: given[key] for key in given if key in METHODS[method].parameters}),
            header=RunHeader.of(job),
            policy_loading=job.policy_loading,
            reference_loading=job.reference_loading,
            training=task.training,
            planted=task.data.source == "planted",
            token_pairs=own.token_pairs,
            batch_size=own.batch_size,
            scorer=own.scorer,
            extra_scorers=own.extra_scorers,
        )


class MeasureSummariesSettings(StageSettings):
    header: RunHeader
    summaries: SummaryConfig
    splits: Splits

    @classmethod
    def of(cls, job: Job) -> Self:
        section = job.section.evaluation.summaries
        return cls(header=RunHeader.of(job), summaries=section, splits=job.splits("summaries"))


class MeasureWinRateSettings(StageSettings):
    header: RunHeader
    judge: JudgeConfig
    splits: Splits

    @classmethod
    def of(cls, job: Job) -> Self:
        judge = job.section.evaluation.win_rate
        return cls(header=RunHeader.of(job), judge=judge, splits=job.splits("win_rate"))


class MeasureBenchmarksSettings(StageSettings):
    header: RunHeader
    benchmarks: BenchmarkConfig
    loading: Loading

    @classmethod
    def of(cls, job: Job) -> Self:
        benchmarks = job.section.evaluation.benchmarks
        return cls(header=RunHeader.of(job), benchmarks=benchmarks, loading=job.policy_loading)


class MeasurePassAtKSettings(StageSettings):
    header: RunHeader
    k: list[int]
    data: DataConfig
    execution: ExecutionConfig

    @classmethod
    def of(cls, job: Job) -> Self:
        task = job.section
        return cls(header=RunHeader.of(job), k=task.evaluation.code.k, data=task.data, execution=task.execution)
