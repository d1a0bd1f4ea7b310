"""Settings of the stages that make prompts, preference pairs, cached outputs of the reference, and scores of tokens."""

from typing import Annotated, Self

from pydantic import Field

from sparsepo.config import TaskConfig
from sparsepo.config.data import DataConfig
from sparsepo.config.models import ChatOptions, ModelConfig
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
from sparsepo.workflow.settings.base import Job, Loading, StageSettings, chat_template_text, only_fields, without_fields

ReferencePass = Annotated[
    PreferenceConfig,
    only_fields(
        "max_prompt_tokens", "max_response_tokens", "precision", "layout", "micro_batch_size", "micro_batch_tokens"
    ),
]
"""What a forward pass of a frozen model over pairs depends on."""


class PromptSettings(StageSettings):
    """How prompts become text, and how long they may be: `max_new_tokens` is the longest response that is sampled."""

    max_prompt_tokens: int
    max_new_tokens: int

    @staticmethod
    def prompt_fields(task: TaskConfig) -> dict[str, int]:
        own, pairs = task.evaluation, task.preferences
        samplings = [
            task.sampling,
            own.generation,
            getattr(pairs, "sampling", None),
            getattr(own.code, "sampling", None),
        ]
        longest = max(sampling.max_new_tokens for sampling in samplings if sampling is not None)
        return {"max_prompt_tokens": task.training.max_prompt_tokens, "max_new_tokens": longest}


class PrepareDataSettings(PromptSettings):
    """`name` is the config's, which marks its results. The last three are given where the source of data reads them.

    chat_template: what the file that `model` names says, so that a change of it is seen.
    """

    name: str
    data: DataConfig
    model: ModelConfig
    chat_template: str | None
    preferences: FilePreferences | None
    execution: ExecutionConfig | None

    @classmethod
    def of(cls, job: Job) -> Self:
        task, source = job.section, job.section.data.source
        return cls(
            name=job.config_name,
            data=task.data,
            preferences=task.preferences if source == "preferences" else None,
            model=task.model,
            chat_template=chat_template_text(task.model),
            execution=task.execution if source == "problems" else None,
            **cls.prompt_fields(task),
        )


class FitScorerSettings(StageSettings):
    """`pairs`: whether the labelled documents are pairs of a chosen and a rejected response."""

    seed: int
    pairs: bool

    @classmethod
    def of(cls, job: Job) -> Self:
        data = job.section.data
        return cls(seed=data.seed, pairs=data.source == "preferences")


class BuildPreferencesSettings(PromptSettings):
    """The last three are given where programs are executed; each of the `epochs` has pairs of its own."""

    preferences: Annotated[GeneratedPreferences | FilePreferences | ExecutedPreferences, Field(discriminator="source")]
    loading: Loading
    chat: ChatOptions
    on_long_prompt: str
    data: DataConfig | None = None
    execution: ExecutionConfig | None = None
    epochs: float | None = None

    @classmethod
    def of(cls, job: Job) -> Self:
        task, programs = job.section, {}
        if task.preferences.source == "executed":
            programs = {"data": task.data, "execution": task.execution, "epochs": task.training.num_train_epochs}
        chat = ChatOptions(**{name: getattr(task.model, name) for name in ChatOptions.model_fields})
        limits = cls.prompt_fields(task) | {"on_long_prompt": task.data.on_long_prompt}
        return cls(preferences=task.preferences, loading=job.trusted_loading, chat=chat, **limits, **programs)


class BuildRoundPairsSettings(StageSettings):
    """The seed is that of the run. Nothing of the method: the judge sees texts alone."""

    seed: int
    sampling: Annotated[SamplingConfig, without_fields("seed")]
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
