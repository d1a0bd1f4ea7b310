"""Dialogues as one text, in turns that start with "\\n\\nHuman:" or "\\n\\nAssistant:", as in Anthropic's HH data."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sparsepo.data.pairing import PairBuilder, PlacedPair
from sparsepo.data.readers import PlacedRows
from sparsepo.data.records import Preference, String, as_record
from sparsepo.runtime.errors import UserError, one_line

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = {"user": HUMAN, "assistant": ASSISTANT}


@dataclass(frozen=True)
class Dialogues:
    """A row of HH: two dialogues that should differ in the last turn only."""

    chosen: String
    rejected: String


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: String
    content: String


@dataclass(frozen=True)
class Chats:
    """The same as lists of messages; `dataset` names the part of the data that a row belongs to."""

    chosen: list[Message]
    rejected: list[Message]
    dataset: String | None = None


def count_human_turns(prompt: str) -> int:
    """The number of turns of the human in a prompt."""
    return prompt.count(HUMAN)


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


def transcript_pairs(rows: PlacedRows, builder: PairBuilder) -> Iterator[PlacedPair]:
    """A pair of each row {"chosen", "rejected"}; dialogues that differ before their last turn are dropped."""
    for place, row in rows:
        record = as_record(row, Dialogues, place)
        chosen = split_dialogue(record.chosen, f"{place}: field 'chosen'")
        rejected = split_dialogue(record.rejected, f"{place}: field 'rejected'")
        yield from _same_prompt(chosen, rejected, place, "", builder)


def message_pairs(rows: PlacedRows, builder: PairBuilder) -> Iterator[PlacedPair]:
    """The same of chats as lists of {"role", "content"}; the subset is the `dataset` of a row."""
    for place, row in rows:
        record = as_record(row, Chats, place)
        chosen = render_chat(record.chosen, f"{place}: field 'chosen'")
        rejected = render_chat(record.rejected, f"{place}: field 'rejected'")
        yield from _same_prompt(chosen, rejected, place, record.dataset or "", builder)


def render_chat(messages: list[Message], place: str) -> tuple[str, str]:
    """(prompt, response): a chat as a transcript, cut before its last message.

    The system text, if there is one, begins the first turn of the human. Raises UserError, naming `place`, for a chat
    of other roles, or one that does not go from the user to the assistant.
    """
    has_system = bool(messages) and messages[0].role == "system"
    system = f"{messages[0].content.strip()}\n\n" if has_system else ""
    chat = messages[has_system:]
    unknown = [message.role for message in chat if message.role not in ROLES]
    if unknown:
        allowed = "system (first), user, assistant"
        raise UserError(f"{place} has a role '{one_line(unknown[0], 40)}'; allowed: {allowed}")
    if len(chat) < 2 or (chat[0].role, chat[-1].role) != ("user", "assistant"):
        raise UserError(f"{place} must go from a message of the user to one of the assistant")
    texts = [message.content.strip() for message in chat]
    texts[0] = system + texts[0]
    turns = [f"{ROLES[message.role]} {text}" for message, text in zip(chat, texts, strict=True)]
    return "".join(turns[:-1]) + ASSISTANT, f" {texts[-1]}"


def _same_prompt(
    chosen: tuple[str, str], rejected: tuple[str, str], place: str, subset: str, builder: PairBuilder
) -> Iterator[PlacedPair]:
    """The pair of two (prompt, response), if their prompts are equal."""
    if chosen[0] == rejected[0]:
        yield PlacedPair(place, subset, Preference(chosen[0], chosen[1], rejected[1]))
    else:
        builder.drop("chosen and rejected differ before the last turn", place)
