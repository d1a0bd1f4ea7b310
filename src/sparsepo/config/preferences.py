"""Sections of a config: scorers, sampling, and where preference pairs come from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sparsepo.config.base import Count, Line, Positive, Probability, Seed, Strict, StrictBool, one_place, refuse
from sparsepo.config.data import HubRows


class VaderScorer(Strict):
    """VADER's compound score of prompt + response, mapped to [0, 1]."""

    kind: Literal["vader"]


class TfidfScorer(Strict):
    """Probability of class 1 by logistic regression on TF-IDF of words and pairs of words, fitted in the pipeline.

    It is fitted to the `data.labelled` documents; its accuracy on a fifth of them, held out, is reported.
    """

    kind: Literal["tfidf"]


class ClassifierScorer(Strict):
    """Probability that a text classifier (hub id or folder) gives to `label`.

    `pickled_weights: true`, here and wherever a classifier is named, also takes weights that are no safetensors.
    """

    kind: Literal["classifier"]
    model: Line
    label: Line = "POSITIVE"
    batch_size: Count = 32
    pickled_weights: StrictBool = False


class RewardModelScorer(Strict):
    """The scalar of a reward model (hub id or folder)."""

    kind: Literal["reward_model"]
    model: Line
    batch_size: Count = 32
    pickled_weights: StrictBool = False


ScorerConfig = Annotated[VaderScorer | TfidfScorer | ClassifierScorer | RewardModelScorer, Field(discriminator="kind")]


class SamplingConfig(Strict):
    """Ancestral sampling by default: the KL estimate over samples is unbiased at temperature 1 and top_p 1 only.

    `batch_size` responses are sampled together: more are faster and take more memory. Texts change by rounding only.
    """

    samples: Count = 1
    temperature: Positive = 1.0
    top_p: Probability = 1.0
    max_new_tokens: Count = 64
    batch_size: Count = 64
    seed: Seed = 0


class GeneratedPreferences(Strict):
    """`samples` responses a prompt from the SFT model, scored; best against worst. Ties are dropped and counted."""

    source: Literal["generated"]
    scorer: ScorerConfig
    sampling: SamplingConfig = SamplingConfig(samples=2)

    @model_validator(mode="after")
    def _two_samples(self) -> "GeneratedPreferences":
        if self.sampling.samples < 2:
            refuse("a pair needs at least 2 samples of each prompt", "sampling", "samples")
        return self


class FilePreferences(Strict):
    """Preferences that exist, from `path` (JSON lines, but for `rated_posts`) or the `hub`.

    `pairs`: prompt, chosen, rejected. `scored`: prompt, text, reward; best against worst. `transcripts`: chosen and
    rejected as Anthropic HH has them. `messages`: the same as lists of role and content. `rated_posts`: one JSON object
    {post: {responses, rewards}}. `comparisons`, `axis`: openai/summarize_from_feedback.

    A pair with a response of more than `max_words` words is dropped; `sample` is a seeded choice of so many pairs of
    each subset of the data.
    """

    source: Literal["pairs", "scored", "transcripts", "messages", "rated_posts", "comparisons", "axis"]
    path: Path | None = None
    hub: HubRows | None = None
    max_words: Count | None = None
    sample: Count | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_place(self) -> "FilePreferences":
        one_place(self, *("path",) if self.source == "rated_posts" else ("path", "hub"))
        return self


class ExecutedPreferences(Strict):
    """`samples` programs a problem from the SFT model, run against its tests: one that passes against one that fails.

    Problems with at least two passing programs and one failing are kept, with a fresh pair for each epoch.
    """

    source: Literal["executed"]
    sampling: SamplingConfig = SamplingConfig(samples=10, max_new_tokens=256)

    @model_validator(mode="after")
    def _three_samples(self) -> "ExecutedPreferences":
        if self.sampling.samples < 3:
            refuse("two passing programs and a failing one need at least 3 samples", "sampling", "samples")
        return self


class ExecutionConfig(Strict):
    """How generated programs are run: in a sandbox by bubblewrap, `timeout` seconds and `memory_mb` each.

    `unsafe_execution` runs them where bubblewrap cannot be used, with the rights of the user: nothing else protects
    the machine then.
    """

    timeout: Positive = 3.0
    memory_mb: Count = 1024
    workers: Count = 2
    unsafe_execution: bool = False
