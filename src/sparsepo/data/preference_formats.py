"""Preferences that exist: each format of a file or of a data set of the hub gives the same pairs."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from sparsepo.data.hh_dialogues import message_pairs, transcript_pairs
from sparsepo.data.pairing import Found, PairBuilder, extremes, spaced
from sparsepo.data.readers import Rows, origin_of, rows_of
from sparsepo.data.records import Preference, Scored, as_record
from sparsepo.data.summarize_from_feedback import compared, rated_on_axes, rated_post_rows, rated_posts
from sparsepo.runtime.errors import UserError


def preference_source(settings: dict[str, Any]) -> PairBuilder:
    """The pairs that {"source", "path", "hub", "max_words", "sample", "seed"} describes, in the order of the data.

    `source` is one of `FORMATS`. A pair with a response longer than `max_words` is dropped, and `sample` is a seeded
    choice of so many pairs of each subset. Raises UserError for data that cannot be read or give no pair.
    """
    made, origin = PairBuilder(), origin_of(settings)
    read, parse = FORMATS[settings["source"]]
    found = parse(read(settings), made)
    usable = (each for each in found if made.usable(each[2], each[0]))
    short = list(short_enough(usable, settings["max_words"], made))
    made.pairs += [pair for _, _, pair in sampled(short, settings["sample"], settings["seed"], made)]
    if not made.pairs:
        raise UserError(f"{origin}: no usable pair ({made})")
    return made


def short_enough(found: Iterator[Found], most: int | None, made: PairBuilder) -> Iterator[Found]:
    """Those whose responses both have at most `most` words, told apart by white space."""
    for place, subset, pair in found:
        if most is not None and max(len(pair.chosen.split()), len(pair.rejected.split())) > most:
            made.drop(f"a response is longer than {most} words", place)
        else:
            yield place, subset, pair


def sampled(found: list[Found], size: int | None, seed: int, made: PairBuilder) -> list[Found]:
    """At most `size` of each subset, in their order. What a subset gives does not depend on the others."""
    if size is None:
        return found
    places: dict[str, list[int]] = {}
    for at, (_, subset, _) in enumerate(found):
        places.setdefault(subset, []).append(at)
    kept: set[int] = set()
    for subset, own in places.items():
        kept |= set(random.Random(f"{seed} {subset}").sample(own, min(size, len(own))))
    for at, (place, _, _) in enumerate(found):
        if at not in kept:
            made.drop(f"not among the {size} that were sampled of each subset", place)
    return [found[at] for at in sorted(kept)]


def plain_pairs(rows: Rows, made: PairBuilder) -> Iterator[Found]:
    """Rows {"prompt", "chosen", "rejected"}, as they are."""
    return ((place, "", as_record(row, Preference, place)) for place, row in rows)


def scored_responses(rows: Rows, made: PairBuilder) -> Iterator[Found]:
    """Rows {"prompt", "text", "reward"}: the best response of a prompt against the worst."""
    records = [(place, as_record(row, Scored, place)) for place, row in rows]
    scored = [(place, Scored(row.prompt, spaced(row.text), row.reward, row.ended)) for place, row in records]
    return ((place, "", pair) for place, pair in extremes(scored, made))


def _rows_of_one_object(settings: dict[str, Any]) -> Rows:
    if settings["path"] is None:
        raise UserError("rated_posts is one JSON object in a file: give preferences.path, not preferences.hub")
    return rated_post_rows(settings["path"])


Read = Callable[[dict[str, Any]], Rows]
Parse = Callable[[Rows, PairBuilder], Iterator[Found]]
FORMATS: dict[str, tuple[Read, Parse]] = {
    "pairs": (rows_of, plain_pairs),
    "scored": (rows_of, scored_responses),
    "transcripts": (rows_of, transcript_pairs),
    "messages": (rows_of, message_pairs),
    "rated_posts": (_rows_of_one_object, rated_posts),
    "comparisons": (rows_of, compared),
    "axis": (rows_of, rated_on_axes),
}
"""By the name a config gives them: what reads the rows with their places, and what makes pairs of them, where a
PairBuilder counts the rows that give no pair."""
