"""Section of a config: rounds, in which a policy trains on ranked samples of its own."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from sparsepo.config.base import Count, Strict, refuse
from sparsepo.config.evaluation import JudgeConfig, ScorerJudge
from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.processes import is_sharded, read_accelerate
from sparsepo.grids import Mistake
from sparsepo.objective.methods import METHODS


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
        if training.adapter is not None and training.adapter.quantise != "none":
            sentence = f"'{method}' goes on from merged weights, which are not in 4 bits: write quantise: none"
            yield sentence, ("training", "adapter", "quantise")
        if training.accelerate is not None and is_sharded(read_accelerate(training.accelerate)):
            sentence = f"'{method}' is sampled after each round, which sharded weights cannot be: leave accelerate out"
            yield sentence, ("training", "accelerate")
