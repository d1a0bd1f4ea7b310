"""The section `data`: where prompts and the SFT corpus come from."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sparsepo.config.base import (
    Count,
    CountOrZero,
    FunctionName,
    LocatedError,
    Section,
    Seed,
    Text,
    must,
    origin_errors,
)
from sparsepo.runtime.errors import UserError, did_you_mean
from sparsepo.runtime.user_code import parameters_of


class Splits(Section):
    """How many prompts each split gets; the splits share no prompt."""

    train: Count | None = None
    """Prompts to train on; null takes all that validation and test leave."""
    validation: Count
    """Prompts for choosing among the points of a grid, and for the validation loss."""
    test: Count
    """Prompts that the tables report on."""


class DataSection(Section):
    """What every source of data has."""

    on_long_prompt: Literal["drop", "refuse", "truncate_left"] = "drop"
    """What becomes of a prompt that is longer than training.max_prompt_tokens, or leaves no room for a response in the
    context of the model. `drop`: it is left out and counted, before the splits are made. `refuse`: an error that names
    it. `truncate_left`: its last tokens are kept. Programming problems are never left out or cut."""


class PlantedData(DataSection):
    """Made-up film reviews from a grammar in which it is known which words carry the sentiment; needs no files."""

    source: Literal["planted"]
    """`planted`: reviews from a grammar."""
    texts: Count = 4000
    """Number of reviews in the SFT corpus."""
    prompts: Annotated[
        Splits,
        must(
            lambda prompts: prompts.train is not None,
            "the grammar gives any number of prompts, so 'train' needs a number",
            "train",
        ),
    ]
    """Number of prompts in each split; `train` needs a number here."""
    seed: Seed = 0
    """Seed of the grammar: another one gives other reviews and prompts."""


def rows_function_errors(function: str | None) -> Iterator[LocatedError]:
    """That a function that yields rows has parameters."""
    if function is not None:
        try:
            needed = parameters_of(function, ()).needed
        except UserError as error:
            yield str(error), ("function",)
        else:
            if needed:
                yield f"is called without arguments, and takes '{needed[0]}'", ("function",)


class HubRows(Section):
    """A data set of the Hugging Face hub."""

    id: Text
    """The id of the data set, for example Anthropic/hh-rlhf."""
    config: str | None = None
    """The configuration, for a data set that has several."""
    split: Text = "train"
    """The split, as `datasets` takes it: train, or train+test."""


class Rows(Section):
    """Rows of a file, of a data set of the Hugging Face hub, or of a function of your own."""

    path: Path | None = None
    """A file, by the ending of its name: JSONL, JSON, CSV, TSV (also packed as .gz), Parquet or Arrow; or a folder that
    `save_to_disk` of `datasets` wrote."""
    split: Text | None = None
    """The split, for a folder at `path` that has several."""
    hub: HubRows | None = None
    """A data set of the Hugging Face hub."""
    function: FunctionName | None = None
    """A function without arguments that yields rows, each a mapping: my_data.py:rows, of a file beside this config."""
    columns: dict[Text, Text] = {}
    """Field -> column, for a field whose column has another name: {prompt: question, chosen: answer_good}."""

    def _errors(self) -> Iterator[LocatedError]:
        origins = ("path", "hub", "package", "function")
        yield from origin_errors(self, *(key for key in origins if key in type(self).model_fields))
        yield from rows_function_errors(self.function)
        if self.split is not None and not os.path.isdir(self.path or ""):
            yield "only a folder of several splits needs it; leave it out (for the hub: hub.split)", ("split",)

    def _column_errors(self, fields: Collection[str]) -> Iterator[LocatedError]:
        """Fields in `columns` that are none of these."""
        for field in self.columns:
            if field not in fields:
                yield f"unknown field; {did_you_mean(field, fields)}", ("columns", field)


class RowsWithSplits(Rows):
    """Rows for training, and maybe others for validation and test."""

    validation: Rows | None = None
    """Rows of the validation prompts; null takes these prompts from the rows for training."""
    test: Rows | None = None
    """Rows of the test prompts; null takes these prompts from the rows for training."""

    def _column_errors(self, fields: Collection[str]) -> Iterator[LocatedError]:
        """The same, also of validation and test."""
        yield from super()._column_errors(fields)
        for split in ("validation", "test"):
            if (rows := getattr(self, split)) is not None:
                yield from ((message, (split, *keys)) for message, keys in rows._column_errors(fields))


class PackageTexts(Section):
    """A CSV file of an installed Python package, which is read and never imported."""

    name: Text
    """The name of the package as pip knows it."""
    file: Text = "*.csv"
    """A pattern that one file of the package matches."""
    where: dict[str, str] = {}
    """Column -> value: only rows that have all of these values are used."""


class TextData(DataSection, RowsWithSplits):
    """Documents: the first words of some are prompts, others are the SFT corpus. No document is used for both.

    A row has a `text`, and a `label` (1 or 0) if `labelled` asks for documents.
    """

    source: Literal["texts"]
    """`texts`: your own documents, from one of `path`, `hub` and `package`."""
    package: PackageTexts | None = None
    """A CSV file of an installed Python package."""
    texts: Count | None = None
    """Number of documents in the SFT corpus; null takes all that the prompts leave."""
    labelled: CountOrZero = 0
    """Number of documents set apart for a `tfidf` scorer, which is fitted to their classes."""
    prompt_tokens: tuple[Count, Count] = (5, 8)
    """The least and the largest number of tokens of a prompt (of words, if the model is from scratch)."""
    prompts: Splits
    """Number of prompts in each split."""
    seed: Seed = 0
    """Seed of the order of the documents and of the lengths of prompts."""

    def _errors(self) -> Iterator[LocatedError]:
        yield from super()._errors()
        yield from self._column_errors(("text", "label"))
        if self.prompt_tokens[0] > self.prompt_tokens[1]:
            given = list(self.prompt_tokens)
            yield f"the first number must not exceed the second, as in [5, 8]; given {given}", ("prompt_tokens",)


class PromptData(DataSection, RowsWithSplits):
    """Prompts alone, which the model answers. There is no SFT corpus.

    A row has a `prompt`, a text or a list of messages, and maybe a `reference`, a good answer to compare with.
    """

    source: Literal["prompts"]
    """`prompts`: your own prompts, from one of `path` and `hub`."""
    prompts: Splits
    """Number of prompts in each split."""
    seed: Seed = 0
    """Seed of the order of the prompts, which decides their splits."""

    def _errors(self) -> Iterator[LocatedError]:
        yield from super()._errors()
        yield from self._column_errors(("prompt", "reference"))


class PreferenceData(DataSection):
    """The prompts of the preference data that `preferences` names; the SFT corpus is their chosen responses."""

    source: Literal["preferences"]
    """`preferences`: prompts come with the preference pairs."""
    prompts: Splits
    """Number of prompts in each split."""
    labelled: CountOrZero = 0
    """Number of further prompts whose pairs are set apart for a `tfidf` scorer: chosen is class 1, rejected 0."""
    seed: Seed = 0
    """Seed of the order of the prompts, which decides their splits."""


class ProblemData(DataSection):
    """Programming problems of MBPP: of each of its own splits a seeded choice."""

    source: Literal["problems"]
    """`problems`: MBPP, from one of `path` and `hub`."""
    path: Path | None = None
    """The file mbpp.jsonl of google-research."""
    hub: HubRows | None = None
    """MBPP on the hub, for example {id: google-research-datasets/mbpp, config: full, split: train+test}."""
    corpus: Annotated[list[Literal["train", "validation"]], Field(min_length=1)] = ["train"]
    """The splits whose solutions are the SFT corpus; results on a split named here say nothing about new problems."""
    prompts: Splits
    """Number of problems in each split."""
    seed: Seed = 0
    """Seed of the choice of problems."""

    def _errors(self) -> Iterator[LocatedError]:
        return origin_errors(self, "path", "hub")


DataConfig = Annotated[
    PlantedData | TextData | PromptData | PreferenceData | ProblemData, Field(discriminator="source")
]
