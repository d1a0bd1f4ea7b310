"""Settings of the stages that make prompts, preference pairs, cached outputs of the reference, and scores of tokens."""

from typing import Annotated, Self

from pydantic import Field

from sparsepo.config.data import DataConfig
from sparsepo.config.models import ModelConfig
from sparsepo.config.online import judge_of_rounds, sampling_of_rounds
from sparsepo.config.preferences import (
    ExecutedPreferences,
    ExecutionConfig,
    FilePreferences,
    GeneratedPreferences,
    SamplingConfig,
)
from sparsepo.config.scorers import JudgeConfig
from sparsepo.config.training import PreferenceConfig
from sparsepo.workflow.settings.base import Job, Loading, Only, StageSettings, Without

ReferencePass = Annotated[
    PreferenceConfig,
    Only("max_prompt_tokens", "max_response_tokens", "precision", "layout", "micro_batch_size", "micro_batch_tokens"),
]
"""What a forward pass of a frozen model over pairs depends on."""


class PrepareDataSettings(StageSettings):
    """`name` is the config's, which marks its results. The last three are given where the source of data reads them."""

    name: str
    data: DataConfig
    preferences: FilePreferences | None
    model: ModelConfig | None
    execution: ExecutionConfig | None

    @classmethod
    def of(cls, job: Job) -> Self:
        task, source = job.section, job.section.data.source
        return cls(
            name=job.config_name,
            data=task.data,
            preferences=task.preferences if source == "preferences" else None,
            model=task.model if source == "texts" else None,
            execution=task.execution if source == "problems" else None,
        )


class FitScorerSettings(StageSettings):
    """`pairs`: whether the labelled documents are pairs of a chosen and a rejected response."""

    seed: int
    pairs: bool

    @classmethod
    def of(cls, job: Job) -> Self:
        data = job.section.data
        return cls(seed=data.seed, pairs=data.source == "preferences")


class BuildPreferencesSettings(StageSettings):
    """The last three are given where programs are executed; each of the `epochs` has pairs of its own."""

    preferences: Annotated[GeneratedPreferences | FilePreferences | ExecutedPreferences, Field(discriminator="source")]
    loading: Loading
    data: DataConfig | None = None
    execution: ExecutionConfig | None = None
    epochs: float | None = None

    @classmethod
    def of(cls, job: Job) -> Self:
        task, programs = job.section, {}
        if task.preferences.source == "executed":
            programs = {"data": task.data, "execution": task.execution, "epochs": task.training.num_train_epochs}
        return cls(preferences=task.preferences, loading=job.trusted_loading, **programs)


class BuildRoundPairsSettings(StageSettings):
    """The seed is that of the run. Nothing of the method: the judge sees texts alone."""

    seed: int
    sampling: Annotated[SamplingConfig, Without("seed")]
    judge: JudgeConfig
    training: ReferencePass
    loading: Loading

    @classmethod
    def of(cls, job: Job) -> Self:
        task = job.section
        sampling, judge = sampling_of_rounds(task), judge_of_rounds(task)
        loading = job.trusted_loading
        return cls(seed=job.run.seed, sampling=sampling, judge=judge, training=task.training, loading=loading)


class CacheReferenceSettings(StageSettings):
    training: ReferencePass
    loading: Loading

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(training=job.section.training, loading=job.trusted_loading)


class SelectOraclePairsSettings(StageSettings):
    """`share`: of the prompts that have pairs, a choice by `seed`."""

    task: str
    oracle: str
    share: float
    seed: int
    max_prompt_tokens: int
    max_response_tokens: int

    @classmethod
    def of(cls, job: Job) -> Self:
        ((name, oracle),) = job.section.oracles.items()
        training = job.section.training
        limits = {key: getattr(training, key) for key in ("max_prompt_tokens", "max_response_tokens")}
        return cls(task=job.task, oracle=name, share=oracle.share, seed=oracle.seed, **limits)


class ScoreTokensSettings(StageSettings):
    training: ReferencePass
    oracle_loading: Loading
    base_loading: Loading

    @classmethod
    def of(cls, job: Job) -> Self:
        training = job.section.training
        return cls(training=training, oracle_loading=job.trusted_loading, base_loading=job.reference_loading)
