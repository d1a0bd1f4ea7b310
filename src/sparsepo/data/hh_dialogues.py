"""Dialogues as one text, in turns that start with "\\n\\nHuman:" or "\\n\\nAssistant:", as in Anthropic's HH data."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparsepo.data.pairing import PairBuilder, PlacedPair
from sparsepo.data.readers import PlacedRows
from sparsepo.data.records import Preference, Prompt, String, as_record
from sparsepo.runtime.errors import UserError

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


@dataclass(frozen=True)
class Dialogues:
    """A row of HH: two dialogues that should differ in the last turn only."""

    chosen: String
    rejected: String


def count_human_turns(prompt: Prompt) -> int:
    """The number of turns of the human in a prompt: messages of the user, or turns of a transcript."""
    if prompt.messages is not None:
        return sum(message["role"] == "user" for message in prompt.messages)
    return prompt.prompt.count(HUMAN)


def split_dialogue(dialogue: str, place: str) -> tuple[str, str]:
    """(prompt, response): a dialogue cut behind its last "\\n\\nAssistant:"; the response keeps its leading space.

    >>> split_dialogue("\\n\\nHuman: Hi\\n\\nAssistant: Hello", "here")
    ('\\n\\nHuman: Hi\\n\\nAssistant:', ' Hello')

    Raises UserError, naming `place`, for a dialogue that does not start with a turn of the human (HH has no system
    text) or does not end with one of the assistant.
    """
    if not dialogue.startswith(HUMAN):
        raise UserError(f"{place} must start with a turn {HUMAN!r}, not with {dialogue[:20]!r}")
    last_turn = re.findall(f"{HUMAN}|{ASSISTANT}", dialogue)[-1]
    if last_turn != ASSISTANT:
        raise UserError(f"{place} must end with a turn {ASSISTANT!r}, not with one of {HUMAN!r}")
    prompt, _, response = dialogue.rpartition(ASSISTANT)
    return prompt + ASSISTANT, response


def transcript_pairs(rows: PlacedRows, builder: PairBuilder, _: Any) -> Iterator[PlacedPair]:
    """A pair of each row {"chosen", "rejected"}; dialogues that differ before their last turn are dropped."""
    for place, row in rows:
        record = as_record(row, Dialogues, place)
        chosen = split_dialogue(record.chosen, f"{place}: field 'chosen'")
        rejected = split_dialogue(record.rejected, f"{place}: field 'rejected'")
        yield from _same_prompt(chosen, rejected, place, "", builder)


def _same_prompt(
    chosen: tuple[str, str], rejected: tuple[str, str], place: str, subset: str, builder: PairBuilder
) -> Iterator[PlacedPair]:
    """The pair of two (prompt, response), if their prompts are equal."""
    if chosen[0] == rejected[0]:
        yield PlacedPair(place, subset, Preference(chosen[0], chosen[1], rejected[1]))
    else:
        builder.drop("chosen and rejected differ before the last turn", place)
