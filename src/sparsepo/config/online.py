"""The sections `training.rounds` and `training.on_policy`: methods that train on samples of their own policy."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from sparsepo.config.accelerate import is_sharded, read_accelerate
from sparsepo.config.base import Count, LocatedError, Section, Text, must
from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.scorers import JudgeConfig, ScorerConfig, ScorerJudge
from sparsepo.methods.registry import METHODS

if TYPE_CHECKING:
    from sparsepo.config import TaskConfig


class OnPolicyConfig(Section):
    """Training without pairs (fdpg, fdpg_feature): each step samples responses of the policy and rewards them.

    There `training.batch_size` and `micro_batch_size` count responses, and `num_train_epochs` go over the training
    prompts. Responses are drawn at temperature 1, with `sampling.max_new_tokens` tokens at most. The reward is
    `preferences.scorer`, or else `evaluation.scorer`.
    """

    samples: Count = 4
    """Responses to each prompt of a step; must divide `training.batch_size`."""
    words: list[
        Annotated[Text, must(lambda word: word == word.strip(), "must be a word without spaces around it, not {!r}")]
    ] = []
    """The feature of `fdpg_feature`: whether a response has one of these words; empty takes the reward instead."""
    fit_prompts: Count = 64
    """Training prompts that `fdpg_feature` fits its one parameter to."""
    fit_samples: Count = 32
    """Responses of the reference to each of the `fit_prompts`."""


class RoundsConfig(Section):
    """Training in rounds (inpo): each round samples responses of its policy, and a judge compares each with each."""

    samples: (
        Annotated[Count, must(lambda samples: samples >= 2, "a pair needs at least 2 samples of each prompt")] | None
    ) = None
    """Responses to each training prompt; null takes the number of generated preferences, or 4."""
    judge: JudgeConfig | None = None
    """What compares them; null takes the scorer of generated preferences, or that of the evaluation."""


def methods_trained_by(trainer: str, methods: Iterable[str]) -> list[str]:
    """Those of the methods of a task that train on pairs, in rounds, or on samples without pairs (`on_policy`)."""
    return [name for name in methods if METHODS[name].trainer == trainer]


def reward_of(task: "TaskConfig") -> ScorerConfig | None:
    """The scorer that rewards samples of a policy in training; None if the task has none."""
    return getattr(task.preferences, "scorer", None) or task.evaluation.scorer


def judge_of_rounds(task: "TaskConfig") -> JudgeConfig | None:
    """What ranks the samples of a round; None if the task has nothing that could."""
    scorer = reward_of(task)
    return task.training.rounds.judge or (scorer and ScorerJudge(kind="scorer", scorer=scorer))


def sampling_of_rounds(task: "TaskConfig") -> SamplingConfig:
    """How a round samples; its seed is that of the round."""
    generated = task.preferences.source == "generated"
    sampling = task.preferences.sampling if generated else task.sampling
    samples = task.training.rounds.samples or (sampling.samples if generated else 4)
    return sampling.model_copy(update={"samples": samples})


def on_policy_errors(task: "TaskConfig") -> Iterator[LocatedError]:
    """What in a task its methods cannot be trained with that train on samples of their policy."""
    methods, training = methods_trained_by("on_policy", task.methods), task.training
    if not methods:
        return
    name, samples, prompts = methods[0], training.on_policy.samples, task.data.prompts.train
    for method in methods:
        if reward_of(task) is None and ("beta" in METHODS[method].hyper or not training.on_policy.words):
            yield f"'{method}' needs a reward: give preferences.scorer or evaluation.scorer", ("methods", method)
    if training.num_processes > 1 or training.accelerate is not None:
        message = f"'{name}' samples its own policy, in one process: leave num_processes and accelerate out"
        yield message, ("training",)
    if training.batch_size % samples:
        message = f"must divide training.batch_size ({training.batch_size}), which counts responses, not {samples}"
        yield message, ("training", "on_policy", "samples")
    elif prompts is not None and prompts < training.batch_size // samples:
        message = f"{prompts} prompts are fewer than the {training.batch_size // samples} of a step"
        yield f"{message} of '{name}' (training.batch_size / on_policy.samples)", ("data", "prompts", "train")
    for key in ("temperature", "top_p"):
        if getattr(task.sampling, key) != 1:
            message = f"'{name}' draws at {key} 1, and its divergences are those of such samples: write {key}: 1"
            yield message, ("sampling", key)


def rounds_errors(task: "TaskConfig") -> Iterator[LocatedError]:
    """What in a task its methods cannot be trained with that train in rounds."""
    training, methods = task.training, methods_trained_by("rounds", task.methods)
    if not methods:
        if training.rounds != RoundsConfig():
            yield "no method of this task trains in rounds: leave it out", ("training", "rounds")
        return
    name = methods[0]
    if judge_of_rounds(task) is None:
        message = f"method '{name}' ranks samples of its own: give a judge, or evaluation.scorer"
        yield message, ("training", "rounds", "judge")
    if training.validate_every:
        message = f"method '{name}' makes its own pairs and holds none out: write validate_every: 0"
        yield message, ("training", "validate_every")
    if training.adapter is not None and training.adapter.quantization != "none":
        message = f"'{name}' continues from merged weights, which are not in 4 bits: write quantization: none"
        yield message, ("training", "adapter", "quantization")
    if training.accelerate is not None and is_sharded(read_accelerate(training.accelerate)):
        message = f"'{name}' is sampled after each round, which sharded weights cannot be: leave accelerate out"
        yield message, ("training", "accelerate")
