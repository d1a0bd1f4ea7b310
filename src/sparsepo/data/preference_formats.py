"""Preferences that exist: each format of a file or of a data set of the hub gives the same pairs."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from sparsepo.data.hh_dialogues import transcript_pairs
from sparsepo.data.pairing import PairBuilder, PlacedPair, add_space, best_and_worst_pairs
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.readers import PlacedRows, section_name, section_rows
from sparsepo.data.records import Scored, as_object, as_record
from sparsepo.data.row_formats import canonical_rows, unpaired_rows
from sparsepo.data.summarize_from_feedback import axis_pairs, comparison_pairs, rated_post_rows, rated_posts
from sparsepo.runtime.errors import UserError


def read_preferences(settings: dict[str, Any], prompts: PromptBuilder | None = None) -> PairBuilder:
    """The pairs that a section `preferences` describes, in the order of the data; those of a `mixture` come last.

    `source` is one of `FORMATS`. A pair whose responses differ by more than `max_length_difference` words in length is
    dropped, and `sample` is a seeded choice of so many pairs of each subset. prompts: renders chats and settles what
    becomes of long prompts. Raises UserError for data that cannot be read or give no pair.
    """
    prompts = prompts or PromptBuilder()
    builder = PairBuilder()
    pairs = chain.from_iterable(
        _pairs_of(rows, number, builder, prompts) for number, rows in enumerate([settings, *settings["mixture"]])
    )
    settled = settle_pairs(pairs, prompts, builder)
    usable = (item for item in settled if builder.is_usable(item.pair, item.place))
    alike = list(drop_unlike_lengths(usable, settings["max_length_difference"], builder))
    builder.pairs += [item.pair for item in sample_pairs(alike, settings["sample"], settings["seed"], builder)]
    if not builder.pairs:
        raise UserError(f"{section_name(settings)}: no usable pair ({builder})")
    return builder


def _pairs_of(rows: dict[str, Any], number: int, builder: PairBuilder, prompts: PromptBuilder) -> Iterator[PlacedPair]:
    """The pairs of one data set; those of the first one of a mixture keep the names of their subsets."""
    read, parse = FORMATS[rows["source"]]
    for item in parse(read(rows), builder, prompts):
        yield item._replace(subset=f"{number} {item.subset}") if number else item


def settle_pairs(pairs: Iterator[PlacedPair], prompts: PromptBuilder, builder: PairBuilder) -> Iterator[PlacedPair]:
    """Pairs with their prompts wrapped and cut as `prompts` says; what is dropped for its length is counted."""
    for item in pairs:
        pair = prompts.settle(item.pair, item.place)
        if isinstance(pair, str):
            builder.drop(pair, item.place)
        else:
            yield item._replace(pair=pair)


def drop_unlike_lengths(pairs: Iterator[PlacedPair], most: int | None, builder: PairBuilder) -> Iterator[PlacedPair]:
    """Pairs whose responses differ by at most `most` words in length; white space separates words."""
    for item in pairs:
        difference = abs(len(item.pair.chosen.split()) - len(item.pair.rejected.split()))
        if most is not None and difference > most:
            builder.drop(f"the lengths of the responses differ by more than {most} words", item.place)
        else:
            yield item


def sample_pairs(pairs: list[PlacedPair], size: int | None, seed: int, builder: PairBuilder) -> list[PlacedPair]:
    """At most `size` pairs of each subset, in their order. What a subset gives does not depend on the others."""
    if size is None:
        return pairs
    subsets: dict[str, list[int]] = {}
    for index, item in enumerate(pairs):
        subsets.setdefault(item.subset, []).append(index)
    chosen: set[int] = set()
    for subset, indices in subsets.items():
        chosen |= set(random.Random(f"{seed} {subset}").sample(indices, min(size, len(indices))))
    for index, item in enumerate(pairs):
        if index not in chosen:
            builder.drop(f"not among the {size} that were sampled of each subset", item.place)
    return [pairs[index] for index in sorted(chosen)]


def recognised_pairs(rows: PlacedRows, builder: PairBuilder, prompts: PromptBuilder) -> Iterator[PlacedPair]:
    """Pairs of rows in any format of `row_formats`."""
    return row_pairs(_single_responses(canonical_rows(rows, builder), builder), builder, prompts)


def _single_responses(rows: PlacedRows, builder: PairBuilder) -> PlacedRows:
    """Canonical rows whose responses are one message each; the others are counted as dropped."""
    for place, row in rows:
        if any(isinstance(row[side], list) and len(row[side]) > 1 for side in ("chosen", "rejected")):
            builder.drop("a response has several messages", place)
        else:
            yield place, row


def unpaired(rows: PlacedRows, builder: PairBuilder, prompts: PromptBuilder) -> Iterator[PlacedPair]:
    """Pairs of rows {"prompt", "completion", "label"} whose prompt has good and bad responses."""
    return row_pairs(_single_responses(unpaired_rows(rows, builder), builder), builder, prompts)


def row_pairs(rows: PlacedRows, builder: PairBuilder, prompts: PromptBuilder) -> Iterator[PlacedPair]:
    """Rows {"prompt", "chosen", "rejected"} of texts or chats; see `PromptBuilder.pair`."""
    for place, row in rows:
        pair = prompts.pair(as_object(row, place), place)
        if pair is None:
            builder.drop("chosen and rejected differ before the last turn", place)
        else:
            yield PlacedPair(place, str(row.get("dataset") or ""), pair)


def scored_responses(rows: PlacedRows, builder: PairBuilder, prompts: PromptBuilder) -> Iterator[PlacedPair]:
    """Rows {"prompt", "text", "reward"}: the best response of a prompt against the worst."""
    records = [(place, as_record(row, Scored, place)) for place, row in rows]
    scored = [(place, replace(row, text=add_space(row.prompt, row.text))) for place, row in records]
    return (PlacedPair(place, "", pair) for place, pair in best_and_worst_pairs(scored, builder))


Reader = Callable[[dict[str, Any]], PlacedRows]
Parser = Callable[[PlacedRows, PairBuilder, PromptBuilder], Iterator[PlacedPair]]
FORMATS: dict[str, tuple[Reader, Parser]] = {
    "pairs": (section_rows, recognised_pairs),
    "unpaired": (section_rows, unpaired),
    "scored": (section_rows, scored_responses),
    "transcripts": (section_rows, transcript_pairs),
    "messages": (section_rows, row_pairs),
    "rated_posts": (rated_post_rows, rated_posts),
    "comparisons": (section_rows, comparison_pairs),
    "axis": (section_rows, axis_pairs),
}
"""Name in the config -> what reads the rows with their places, and what makes pairs of them and counts the others."""
