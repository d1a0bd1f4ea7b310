"""The section of methods that train on samples of their own policy, and what they ask of the rest of a task."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from sparsepo.config.accelerate import is_sharded, read_accelerate
from sparsepo.config.base import Count, Line, Strict, refuse
from sparsepo.config.evaluation import JudgeConfig, ScorerJudge
from sparsepo.config.grids import Mistake
from sparsepo.config.preferences import SamplingConfig
from sparsepo.methods.registry import METHODS


class OnPolicyConfig(Strict):
    """Training on samples of the policy itself (f-DPG): `samples` responses to each prompt of a step.

    There `training.batch_size` and `micro_batch_size` count responses, and `num_train_epochs` go over the
    training prompts. A response is drawn at temperature 1 and has at most `sampling.max_new_tokens` tokens. Its reward
    is that of `preferences.scorer`, or where there is none of `evaluation.scorer`.

    A target with a wanted mean (`fdpg_feature`) asks for the share of responses that have one of `words`, or without
    words for the mean reward. Its one parameter is fitted to `fit_samples` responses of the reference to each of the
    first `fit_prompts` training prompts.
    """

    samples: Count = 4
    words: list[Line] = []
    fit_prompts: Count = 64
    fit_samples: Count = 32

    @field_validator("words")
    @classmethod
    def _are_words(cls, words: list[str]) -> list[str]:
        for place, word in enumerate(words):
            if word != word.strip():
                refuse(f"a word without spaces around it, not {word!r}", place)
        return words


def on_policy_methods(methods: Mapping[str, Any]) -> list[str]:
    """Those of the methods of a task that train on samples of their policy."""
    return [name for name in methods if METHODS[name].trainer == "on_policy"]


def reward_of(task: Any) -> Any | None:
    """The section of the scorer that rewards samples of a policy in training."""
    return getattr(task.preferences, "scorer", None) or task.evaluation.scorer


def on_policy_mistakes(task: Any) -> Iterator[Mistake]:
    """What in a task does not suit its methods that train on samples of their policy."""
    methods, training = on_policy_methods(task.methods), task.training
    if not methods:
        return
    name, each = methods[0], training.on_policy.samples
    for method in methods:
        if reward_of(task) is None and ("beta" in METHODS[method].hyper or not training.on_policy.words):
            yield f"'{method}' needs a reward: give preferences.scorer or evaluation.scorer", ("methods", method)
    if training.num_processes > 1 or training.accelerate is not None:
        yield f"'{name}' samples its own policy, in one process: leave num_processes and accelerate out", ("training",)
    if training.batch_size % each:
        sentence = f"must divide training.batch_size ({training.batch_size}), which counts responses, not {each}"
        yield sentence, ("training", "on_policy", "samples")
    elif task.data.prompts.train is not None and task.data.prompts.train < training.batch_size // each:
        sentence = f"{task.data.prompts.train} prompts are fewer than the {training.batch_size // each} of a step"
        yield f"{sentence} of '{name}' (training.batch_size / on_policy.samples)", ("data", "prompts", "train")
    for key in ("temperature", "top_p"):
        if getattr(task.sampling, key) != 1:
            sentence = f"'{name}' draws at {key} 1, and its divergences are those of such samples: write {key}: 1"
            yield sentence, ("sampling", key)


class RoundsConfig(Strict):
    """Each round samples `samples` responses to each training prompt, and `judge` compares each with each.

    Left out, `samples` is that of generated preferences, or 4, and the judge is the scorer of generated preferences, or
    that of the evaluation. All else is sampled as generated preferences are, or as the task samples.
    """

    samples: Count | None = None
    judge: JudgeConfig | None = Field(default=None)

    @model_validator(mode="after")
    def _two_samples(self) -> "RoundsConfig":
        if self.samples is not None and self.samples < 2:
            refuse("a pair needs at least 2 samples of each prompt", "samples")
        return self


def methods_of_rounds(methods: Mapping[str, Any]) -> list[str]:
    """Those of a task's methods that train in rounds."""
    return [method for method in methods if METHODS[method].trainer == "rounds"]


def judge_of_rounds(task: Any) -> JudgeConfig | None:
    """What ranks the samples of a round; None where the task has nothing that could."""
    scorer = getattr(task.preferences, "scorer", None) or task.evaluation.scorer
    return task.training.rounds.judge or (scorer and ScorerJudge(kind="scorer", scorer=scorer))


def sampling_of_rounds(task: Any) -> SamplingConfig:
    """How a round samples; its seed is that of the round."""
    generated = task.preferences.source == "generated"
    sampling = task.preferences.sampling if generated else task.sampling
    samples = task.training.rounds.samples or (sampling.samples if generated else 4)
    return sampling.model_copy(update={"samples": samples})


def rounds_mistakes(task: Any) -> Iterator[Mistake]:
    """Why the methods of a task that train in rounds cannot."""
    training, methods = task.training, methods_of_rounds(task.methods)
    if not methods and training.rounds != RoundsConfig():
        yield "no method of this task trains in rounds: leave it out", ("training", "rounds")
    for method in methods[:1]:
        if judge_of_rounds(task) is None:
            sentence = f"method '{method}' ranks samples of its own: give a judge, or evaluation.scorer"
            yield sentence, ("training", "rounds", "judge")
        if training.validate_every:
            sentence = f"method '{method}' makes its own pairs and holds none out: write validate_every: 0"
            yield sentence, ("training", "validate_every")
        if training.adapter is not None and training.adapter.quantization != "none":
            sentence = f"'{method}' goes on from merged weights, which are not in 4 bits: write quantization: none"
            yield sentence, ("training", "adapter", "quantization")
        if training.accelerate is not None and is_sharded(read_accelerate(training.accelerate)):
            sentence = f"'{method}' is sampled after each round, which sharded weights cannot be: leave accelerate out"
            yield sentence, ("training", "accelerate")
