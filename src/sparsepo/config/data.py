"""Sections of a config: where prompts and texts come from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sparsepo.config.base import Count, CountOrZero, Line, Seed, Strict, one_place, refuse


class Splits(Strict):
    """How many prompts each split gets; `train: null` takes all that the others leave."""

    train: Count | None = None
    validation: Count
    test: Count


class PlantedData(Strict):
    """Reviews from a grammar with known polar words; `texts` of them are the SFT corpus."""

    source: Literal["planted"]
    texts: Count = 4000
    prompts: Splits
    seed: Seed = 0

    @model_validator(mode="after")
    def _train_is_given(self) -> "PlantedData":
        if self.prompts.train is None:
            refuse("a generator has no end, so 'train' needs a number here", "prompts", "train")
        return self


class HubRows(Strict):
    """A data set of the hub: its id, its configuration if it has several, and the split."""

    id: Line
    config: str | None = None
    split: Line = "train"


class HubTexts(HubRows):
    """A data set of the hub, and its fields that hold the text and, for a reward to be fitted, its class (1 or 0)."""

    text: Line = "text"
    label: Line = "label"


class PackageTexts(Strict):
    """A CSV file of an installed Python package, which is never imported; `where` keeps rows with these values."""

    name: Line
    file: Line = "*.csv"
    text: Line = "text"
    label: Line = "label"
    where: dict[str, str] = {}


class TextData(Strict):
    """Documents: the first words of some are prompts, others are the SFT corpus, disjoint.

    From `path`, a JSONL file with a field `text` (and `label`), from the `hub`, or from an installed `package`.
    `prompt_tokens` is the least and the largest number of tokens of a prompt (words, for a model from scratch).
    `labelled` documents are kept apart from both, for a reward to be fitted to their classes.
    """

    source: Literal["texts"]
    path: Path | None = None
    hub: HubTexts | None = None
    package: PackageTexts | None = None
    texts: Count | None = None
    labelled: CountOrZero = 0
    prompt_tokens: tuple[Count, Count] = (5, 8)
    prompts: Splits
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_place(self) -> "TextData":
        one_place(self, "path", "hub", "package")
        if self.prompt_tokens[0] > self.prompt_tokens[1]:
            refuse(
                f"the first number must not exceed the second, as in [5, 8]; given {list(self.prompt_tokens)}",
                "prompt_tokens",
            )
        return self


class PreferenceData(Strict):
    """Prompts are those of the preference file; the SFT corpus, if SFT is asked for, are its chosen responses.

    The pairs of `labelled` further prompts are kept apart, for a reward to be fitted to them: chosen 1, rejected 0.
    """

    source: Literal["preferences"]
    prompts: Splits
    labelled: CountOrZero = 0
    seed: Seed = 0


class ProblemData(Strict):
    """Programming problems of MBPP, from `path` (mbpp.jsonl) or the `hub`, a seeded choice of each of its own splits.

    The SFT corpus are the solutions of the splits that `corpus` names; a split in it says nothing of new problems.
    """

    source: Literal["problems"]
    path: Path | None = None
    hub: HubRows | None = None
    corpus: Annotated[list[Literal["train", "validation"]], Field(min_length=1)] = ["train"]
    prompts: Splits
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_place(self) -> "ProblemData":
        one_place(self, "path", "hub")
        return self


DataConfig = Annotated[PlantedData | TextData | PreferenceData | ProblemData, Field(discriminator="source")]
