"""Dialogues as one text, in turns that start with "\\n\\nHuman:" or "\\n\\nAssistant:", as in Anthropic's HH data."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparsepo.data.pairing import Found, PairBuilder
from sparsepo.data.readers import Rows, subset_of
from sparsepo.data.records import Preference, as_record
from sparsepo.runtime.errors import UserError, one_line

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = {"user": HUMAN, "assistant": ASSISTANT}


@dataclass(frozen=True)
class Dialogues:
    """A row of HH: two dialogues that should differ in the last turn only."""

    chosen: str
    rejected: str


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


def turns(prompt: str) -> int:
    """How many turns of a human a prompt has."""
    return prompt.count(HUMAN)


def prompt_and_response(dialogue: str, place: str) -> tuple[str, str]:
    """A dialogue cut behind its last "\\n\\nAssistant:"; the response keeps the space that it begins with.

    >>> prompt_and_response("\\n\\nHuman: Hi\\n\\nAssistant: Hello", "here")
    ('\\n\\nHuman: Hi\\n\\nAssistant:', ' Hello')

    Raises UserError, naming `place`, for a dialogue that does not start with a human's turn (HH has no system text) or
    does not end with one of the assistant.
    """
    if not dialogue.startswith(HUMAN):
        raise UserError(f"{place} must start with a turn {HUMAN!r}, not with {dialogue[:20]!r}")
    last = [turn.group() for turn in re.finditer(f"{HUMAN}|{ASSISTANT}", dialogue)][-1]
    if last != ASSISTANT:
        raise UserError(f"{place} must end with a turn {ASSISTANT!r}, not with one of {HUMAN!r}")
    prompt, _, response = dialogue.rpartition(ASSISTANT)
    return prompt + ASSISTANT, response


def transcript_pairs(rows: Rows, made: PairBuilder) -> Iterator[Found]:
    """A pair a row {"chosen", "rejected"}; dialogues that part before their last turn are dropped."""
    for place, row in rows:
        record = as_record(row, Dialogues, place)
        chosen = prompt_and_response(record.chosen, f"{place}: field 'chosen'")
        rejected = prompt_and_response(record.rejected, f"{place}: field 'rejected'")
        yield from _pair(chosen, rejected, (place, ""), made)


def message_pairs(rows: Rows, made: PairBuilder) -> Iterator[Found]:
    """The same for chats as lists of {"role", "content"}; the subset is what a row names as its `dataset`."""
    for place, row in rows:
        chosen, rejected = (rendered(row, name, place) for name in ("chosen", "rejected"))
        yield from _pair(chosen, rejected, (place, subset_of(row, "dataset", place)), made)


def rendered(row: Any, name: str, place: str) -> tuple[str, str]:
    """The chat in a field of a row as a transcript, cut before its last message.

    The system text, if there is one, begins the first turn of the human. Raises UserError for what is no such chat.
    """
    messages = row.get(name) if isinstance(row, dict) else None
    if not isinstance(messages, list):
        raise UserError(f"{place}: field '{name}' must be a list of messages, each with role and content")
    chat = [as_record(message, Message, f"{place}: {name}[{at}]") for at, message in enumerate(messages)]
    system = f"{chat.pop(0).content.strip()}\n\n" if chat and chat[0].role == "system" else ""
    unknown = [message.role for message in chat if message.role not in ROLES]
    if unknown:
        allowed = "system (first), user, assistant"
        raise UserError(f"{place}: field '{name}' has a role '{one_line(unknown[0], 40)}'; allowed: {allowed}")
    if len(chat) < 2 or (chat[0].role, chat[-1].role) != ("user", "assistant"):
        raise UserError(f"{place}: field '{name}' must go from a message of the user to one of the assistant")
    texts = [message.content.strip() for message in chat]
    texts[0] = system + texts[0]
    turns = [f"{ROLES[message.role]} {text}" for message, text in zip(chat, texts, strict=True)]
    return "".join(turns[:-1]) + ASSISTANT, f" {texts[-1]}"


def _pair(
    chosen: tuple[str, str], rejected: tuple[str, str], where: tuple[str, str], made: PairBuilder
) -> Iterator[Found]:
    """At most one pair of two (prompt, response); `where` is place and subset."""
    if chosen[0] == rejected[0]:
        yield *where, Preference(chosen[0], chosen[1], rejected[1])
    else:
        made.drop("chosen and rejected part before the last turn", where[0])
