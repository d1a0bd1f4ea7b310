"""The sections `preferences`, `sampling` and `execution`: where preference pairs come from."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from sparsepo.config.base import (
    MAX_INT,
    NUMBER,
    Count,
    CountOrZero,
    LocatedError,
    Positive,
    Probability,
    Section,
    Seed,
    must,
    origin_errors,
)
from sparsepo.config.data import Rows, RowsWithSplits
from sparsepo.config.scorers import ScorerConfig


class SamplingConfig(Section):
    """How responses are sampled. The KL estimate over samples is unbiased at temperature 1 and top_p 1 only."""

    samples: Count = 1
    """Responses to each prompt."""
    temperature: Positive = 1.0
    """Sampling temperature; below 1 the likely tokens get more likely."""
    top_p: Probability = 1.0
    """Nucleus sampling: only the most likely tokens of this total probability are drawn; 1 keeps all."""
    max_new_tokens: Count = 64
    """Tokens of a response at most."""
    batch_size: Count = 64
    """Responses sampled together: more are faster and take more memory; the texts change by rounding only."""
    seed: Seed = 0
    """Seed of the sampling."""


class GeneratedPreferences(Section):
    """Responses of the SFT model, scored: the best against the worst of a prompt. Ties are dropped and counted."""

    source: Literal["generated"]
    """`generated`: pairs of the SFT model's own responses."""
    scorer: ScorerConfig
    """What scores the responses."""
    sampling: Annotated[
        SamplingConfig,
        must(lambda sampling: sampling.samples >= 2, "a pair needs at least 2 samples of each prompt", "samples"),
    ] = SamplingConfig(samples=2)
    """How the responses are sampled; at least 2 `samples`."""


SOURCE_FIELDS = {
    "pairs": (
        *("prompt", "chosen", "rejected", "system", "tools", "dataset", "chosen_score", "rejected_score"),
        *("conversations", "messages", "instruction", "input", "history", "output", "question", "context"),
        *("response1", "response2", "overall_preference", "human_ref_A", "human_ref_B", "labels", "score_A"),
        *("score_B", "response", "helpfulness", "responses", "scores", "text", "reward", "ended", "chosen_values"),
        *("rejected_values", "chosen_ended", "rejected_ended", "epoch"),
    ),
    "unpaired": ("prompt", "completion", "label"),
    "scored": ("prompt", "text", "reward", "ended"),
    "transcripts": ("chosen", "rejected"),
    "messages": ("chosen", "rejected", "dataset"),
    "rated_posts": (),
    "comparisons": ("info", "summaries", "choice"),
    "axis": ("info", "summary"),
}
"""Source -> the fields of its rows, which `columns` can name."""


class PairRows(Rows):
    """Rows of preference pairs that exist, in one format."""

    source: Literal["pairs", "unpaired", "scored", "transcripts", "messages", "rated_posts", "comparisons", "axis"]
    """The format. `pairs`: any that docs/data.md lists, recognised by the fields of the first row. `unpaired`: prompt,
    completion, label (true or false), for kto. `scored`: prompt, text, reward; best against worst. `transcripts`:
    chosen and rejected dialogues as in Anthropic HH. `messages`: the same as lists of role and content. `rated_posts`:
    one JSON object {post: {responses, rewards}}. `comparisons`, `axis`: the two parts of
    openai/summarize_from_feedback."""

    def _errors(self) -> Iterator[LocatedError]:
        yield from origin_errors(self, "path") if self.source == "rated_posts" else super()._errors()
        yield from self._column_errors(SOURCE_FIELDS[self.source])


class FilePreferences(PairRows, RowsWithSplits):
    """Preference pairs that exist, from a file or from the hub."""

    mixture: list[PairRows] = []
    """Further data sets, each with a `source` of its own, whose pairs are added."""
    max_length_difference: CountOrZero | None = None
    """Pairs whose responses differ by more words in length are dropped; null keeps all."""
    sample: Count | None = None
    """A seeded choice of so many pairs of each subset of the data: of each data set of a mixture, and of each `dataset`
    that its rows name; null takes all."""
    seed: Seed = 0
    """Seed of `sample`."""

    @property
    def sources(self) -> set[str]:
        """The formats of all data sets."""
        return {self.source, *(rows.source for rows in self.mixture)}

    def _errors(self) -> Iterator[LocatedError]:
        yield from super()._errors()
        for split in ("validation", "test"):
            rows = getattr(self, split)
            if rows is not None and self.source == "rated_posts":
                yield from ((message, (split, *keys)) for message, keys in origin_errors(rows, "path"))
            if rows is not None and self.mixture:
                yield "the prompts of a mixture are split by data.prompts: leave it out", (split,)
        if "unpaired" in self.sources and self.mixture:
            yield "responses without a partner cannot be mixed with pairs: leave it out", ("mixture",)


class ExecutedPreferences(Section):
    """Programs of the SFT model, run against the tests of their problem: one that passes against one that fails.

    Problems with at least two passing programs and one failing are used, with a fresh pair in each epoch.
    """

    source: Literal["executed"]
    """`executed`: pairs of programs; needs data.source problems."""
    sampling: Annotated[
        SamplingConfig,
        must(
            lambda sampling: sampling.samples >= 3,
            "two passing programs and a failing one need at least 3 samples",
            "samples",
        ),
    ] = SamplingConfig(samples=10, max_new_tokens=256)
    """How the programs are sampled; at least 3 `samples` of each problem."""


class ExecutionConfig(Section):
    """How generated programs are run: each in a sandbox made by bubblewrap."""

    timeout: Positive = 3.0
    """Seconds that a program may take."""
    memory_mb: Annotated[int, Field(ge=128, le=MAX_INT), NUMBER] = 1024
    """Megabytes of memory that a program may take, files and pipes included."""
    workers: Count = 2
    """Programs that run at the same time."""
    packages: list[Literal["numpy"]] = []
    """Installed packages that programs may import beside the standard library: numpy, or none."""
    unsafe_execution: Literal[False, "run programs with my rights"] = False
    """The words `run programs with my rights` do so without bubblewrap: little protects the machine then."""
