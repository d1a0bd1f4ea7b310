"""Settings of the stages that train."""

from typing import Annotated, Self

from sparsepo.config import TaskConfig
from sparsepo.config.base import MAX_INT, Section
from sparsepo.config.models import ModelConfig
from sparsepo.config.online import OnPolicyConfig, reward_of
from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.scorers import ScorerConfig
from sparsepo.config.training import PreferenceConfig, SftConfig
from sparsepo.methods.registry import METHODS
from sparsepo.workflow.settings.base import (
    Job,
    Loading,
    MethodSettings,
    StageSettings,
    accelerate_settings,
    chat_template_text,
    only_fields,
    without_fields,
)


class TrainSftSettings(StageSettings):
    model: ModelConfig
    sft: SftConfig | None
    loading: Loading
    accelerate: str | None
    chat_template: str | None

    @classmethod
    def of(cls, job: Job) -> Self:
        task = job.section
        read = {"accelerate": accelerate_settings(task.sft), "chat_template": chat_template_text(task.model)}
        return cls(model=task.model, sft=task.sft, loading=job.trusted_loading, **read)


class FrontierSettings(Section):
    """How the policy is sampled and scored for a point of the frontier during training: one response a prompt."""

    sampling: Annotated[SamplingConfig, without_fields("samples")]
    scorer: ScorerConfig
    prompts: int
    batch_size: int

    @classmethod
    def of(cls, task: TaskConfig) -> Self:
        own = task.evaluation
        return cls(sampling=task.sampling, scorer=own.scorer, prompts=own.frontier_prompts, batch_size=own.batch_size)


class TrainPolicySettings(MethodSettings):
    """`frontier`: None where no point of the frontier is measured."""

    seed: int
    training: Annotated[PreferenceConfig, without_fields("rounds", "on_policy")]
    loading: Loading
    accelerate: str | None
    frontier: FrontierSettings | None

    @classmethod
    def of(cls, job: Job) -> Self:
        """Also of an oracle, which is the only run of its section."""
        return cls._of(job, job.section.training)

    @classmethod
    def _of(cls, job: Job, training: PreferenceConfig) -> Self:
        return cls(
            **cls.method_fields(job.run.method, job.run.hyper),
            seed=job.run.seed,
            training=training,
            loading=job.trusted_loading,
            accelerate=accelerate_settings(training),
            frontier=FrontierSettings.of(job.section) if training.frontier_every else None,
        )


class TrainRoundSettings(TrainPolicySettings):
    """A round is measured at its end wherever there is a scorer, even if no step before it is."""

    @classmethod
    def of(cls, job: Job) -> Self:
        training, is_scored = job.section.training, job.section.evaluation.scorer is not None
        every = (training.frontier_every or MAX_INT) if is_scored else 0
        return cls._of(job, training.model_copy(update={"frontier_every": every}))


class TrainOnPolicySettings(MethodSettings):
    """Of `training` what is about pairs is left out; the number and the seed of the final samples change nothing."""

    seed: int
    training: Annotated[
        PreferenceConfig,
        without_fields(
            *("validate_every", "checkpoint_selection", "micro_batch_tokens", "layout", "gradients", "log_kl"),
            *("reference", "rounds", "on_policy", "mask_learning_rate", "mask_weight_decay", "max_response_tokens"),
            *("num_processes", "accelerate", "compile"),
        ),
    ]
    on_policy: OnPolicyConfig
    sampling: Annotated[SamplingConfig, only_fields("max_new_tokens", "batch_size")]
    scorer: ScorerConfig | None
    loading: Loading
    frontier: FrontierSettings | None

    @classmethod
    def of(cls, job: Job) -> Self:
        """A target that is fitted reads all of `on_policy`, and words in place of a scorer if there are some."""
        task, own = job.section, job.section.training.on_policy
        fits_target = "target_mean" in METHODS[job.run.method].hyper
        return cls(
            **cls.method_fields(job.run.method, job.run.hyper),
            seed=job.run.seed,
            training=task.training,
            on_policy=own if fits_target else OnPolicyConfig(samples=own.samples),
            sampling=task.sampling,
            scorer=None if fits_target and own.words else reward_of(task),
            loading=job.trusted_loading,
            frontier=FrontierSettings.of(task) if task.training.frontier_every else None,
        )
