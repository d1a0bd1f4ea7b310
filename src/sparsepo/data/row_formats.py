"""Rows of preference data as they are found, recognised by their fields and turned into one form, the canonical row.

A canonical row is {"prompt", "chosen", "rejected"}, all texts or all lists of messages, and maybe `OPTIONAL` fields. A
message is a dict with a `role`, a `content` and whatever else it came with; a response is one message of the assistant,
or several with calls of tools between them.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import takewhile
from os.path import commonprefix
from typing import Any, NamedTuple

from pydantic import StrictBool

from sparsepo.data.hh_dialogues import HUMAN
from sparsepo.data.messages import Chat, as_chat, as_messages, transcript_messages
from sparsepo.data.pairing import Candidate, PairBuilder, add_space, best_against_worst
from sparsepo.data.readers import PlacedRows
from sparsepo.data.records import Messages, Number, String, ZeroOrOne, as_record
from sparsepo.runtime.errors import UserError, format_value, one_line

Row = dict[str, Any]
OPTIONAL = (
    *("chosen_score", "rejected_score", "chosen_ended", "rejected_ended", "chosen_values", "rejected_values"),
    *("epoch", "dataset"),
)
"""Fields of any format that a canonical row keeps, see `records.Preference`, as it does `tools`; `dataset`: subset."""
SCORES = {"score_chosen": "chosen_score", "score_rejected": "rejected_score"}
"""Names of UltraFeedback."""
EXAMPLE = "columns:\n  prompt: question\n  chosen: good_answer\n  rejected: bad_answer"
DIFFERENT_PROMPTS = "chosen and rejected differ before the last turn"


# --- the fields of each format


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Chosen and rejected: texts, a message, or chats, which then begin with the messages of the prompt."""

    chosen: Any
    rejected: Any
    system: String | None = None


@dataclass(frozen=True, kw_only=True)
class PromptRow(PairRow):
    """With a prompt, a text or messages."""

    prompt: Any


@dataclass(frozen=True, kw_only=True)
class ShareGptRow(PairRow):
    """With the messages of the prompt."""

    conversations: Any


@dataclass(frozen=True, kw_only=True)
class MessagesRow(PairRow):
    """The same as OpenAI names it."""

    messages: Any


@dataclass(frozen=True, kw_only=True)
class OrcaRow(PairRow):
    """With a question."""

    question: String


@dataclass(frozen=True, kw_only=True)
class TranscriptRow:
    """Two dialogues as text."""

    chosen: String
    rejected: String


@dataclass(frozen=True, kw_only=True)
class AlpacaRow(PairRow):
    """The prompt in parts; `history`: earlier turns of the user and the assistant."""

    instruction: String
    input: String | None = None
    history: list[tuple[String, String]] | None = None


@dataclass(frozen=True, kw_only=True)
class AlpacaOutputRow:
    """The same with both responses in one list, the better one first."""

    instruction: String
    output: list[String]
    input: String | None = None
    history: list[tuple[String, String]] | None = None
    system: String | None = None


@dataclass(frozen=True, kw_only=True)
class ShpRow:
    """A post and two comments on it; `labels`: 1 if A is better."""

    history: String
    human_ref_A: String
    human_ref_B: String
    labels: ZeroOrOne
    score_A: Number | None = None
    score_B: Number | None = None


@dataclass(frozen=True, kw_only=True)
class HelpSteer3Row:
    """A chat and two responses; `overall_preference`: negative if the first is better."""

    context: Any
    response1: String
    response2: String
    overall_preference: Number


@dataclass(frozen=True, kw_only=True)
class HelpSteerRow:
    """One of several responses to a prompt, with its rating."""

    prompt: String
    response: String
    helpfulness: Number


@dataclass(frozen=True, kw_only=True)
class ResponsesRow:
    """Responses to a prompt, and a score of each."""

    prompt: Any
    responses: list[Any]
    scores: list[Number]


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """One of several responses to a prompt, with its score."""

    prompt: Any
    text: Any
    reward: Number
    ended: StrictBool = True


@dataclass(frozen=True, kw_only=True)
class UnpairedRow:
    """One response to a prompt, good (true or 1) or not."""

    prompt: Any
    completion: Any
    label: StrictBool | ZeroOrOne


class RatedResponse(NamedTuple):
    """A response with its score."""

    prompt: Chat
    response: Chat
    score: float
    ended: bool = True


# --- canonical rows


def canonical_row(
    prompt: Chat | None, chosen: Chat, rejected: Chat, system: str | None, place: str, builder: PairBuilder
) -> Row | None:
    """A canonical row; None, and counted as dropped, where the two responses do not answer the same prompt.

    All three are texts, or else all are messages: a text becomes one of the user or of the assistant. Where chosen and
    rejected are whole chats, their common beginning is the prompt, whatever else the prompt is said to be. Two texts
    without a prompt have the common beginning up to the last white space as their prompt.
    """
    if isinstance(chosen, str) and isinstance(rejected, str) and not isinstance(prompt, list) and not system:
        if prompt is None:
            prompt, chosen, rejected = _split_texts(chosen, rejected)
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    sides = as_messages(chosen, "assistant"), as_messages(rejected, "assistant")
    if prompt is None or any(side[0]["role"] in ("system", "developer", "user") for side in sides):
        length = _num_common(*sides)
        prompt, sides = sides[0][:length], tuple(side[length:] for side in sides)
    messages = as_messages(prompt, "user")
    if system and messages and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if not messages or any(not _is_response(side) for side in sides):
        builder.drop(DIFFERENT_PROMPTS, place)
        return None
    return {"prompt": messages, "chosen": sides[0], "rejected": sides[1]}


def _num_common(chosen: Messages, rejected: Messages) -> int:
    """How many messages are the prompt of two chats: all common ones but the last of a chat, and no call of a tool
    whose results differ."""
    both = zip(chosen[:-1], rejected[:-1], strict=False)
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
    while length and any(side[length]["role"] == "tool" for side in (chosen, rejected)):
        length -= 1
    return length


def _is_response(messages: Messages) -> bool:
    return messages[0]["role"] == "assistant" and all(each["role"] in ("assistant", "tool") for each in messages)


def _split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected): the white space at the end of the prompt belongs to the responses."""
    common = commonprefix([chosen, rejected])
    spaces = [index for index, sign in enumerate(common) if sign.isspace()]
    end = spaces[-1] if spaces else 0
    return common[:end], chosen[end:], rejected[end:]


def _optional(row: Row, place: str) -> Row:
    """The optional fields of a row that are not null."""
    renamed = {SCORES.get(name, name): value for name, value in row.items() if value is not None}
    optional = {name: renamed[name] for name in OPTIONAL if name in renamed}
    tools = renamed.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools or "[]")
        except (ValueError, RecursionError):
            raise UserError(f"{place}: field 'tools' must be a list, or one as JSON") from None
    return optional | ({"tools": tools} if tools else {})


# --- from the fields of a format to canonical rows


def _from_pair(record: PairRow, place: str, builder: PairBuilder) -> Row | None:
    return _with_prompt(None, record, place, builder)


def _from_prompt(record: PromptRow, place: str, builder: PairBuilder) -> Row | None:
    return _with_prompt(as_chat(record.prompt, f"{place}: field 'prompt'"), record, place, builder)


def _from_chat_in(name: str) -> Callable[[Any, str, PairBuilder], Row | None]:
    """Of a format whose prompt is in this field and is a chat: a text there is a message of the user."""

    def convert(record: PairRow, place: str, builder: PairBuilder) -> Row | None:
        prompt = as_chat(getattr(record, name), f"{place}: field '{name}'")
        return _with_prompt(as_messages(prompt, "user"), record, place, builder)

    return convert


def _with_prompt(prompt: Chat | None, record: PairRow, place: str, builder: PairBuilder) -> Row | None:
    chosen, rejected = (as_chat(getattr(record, side), f"{place}: field '{side}'") for side in ("chosen", "rejected"))
    return canonical_row(prompt, chosen, rejected, record.system, place, builder)


def _from_transcripts(record: TranscriptRow, place: str, builder: PairBuilder) -> Row | None:
    chosen, rejected = (
        transcript_messages(getattr(record, side), f"{place}: field '{side}'") for side in ("chosen", "rejected")
    )
    return canonical_row(None, chosen, rejected, None, place, builder)


def _from_alpaca(record: AlpacaRow | AlpacaOutputRow, place: str, builder: PairBuilder) -> Row | None:
    turns = [text for turn in record.history or () for text in turn]
    turns.append(f"{record.instruction}\n{record.input}" if record.input else record.instruction)
    prompt = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]
    if isinstance(record, AlpacaRow):
        return _with_prompt(prompt, record, place, builder)
    if len(record.output) != 2:
        raise UserError(f"{place}: field 'output' must be [better, worse], not {len(record.output)} responses")
    return canonical_row(prompt, *record.output, record.system, place, builder)


def _from_shp(record: ShpRow, place: str, builder: PairBuilder) -> Row | None:
    responses = [(record.human_ref_A, record.score_A), (record.human_ref_B, record.score_B)]
    (chosen, best), (rejected, worst) = responses if record.labels else reversed(responses)
    row = canonical_row(as_messages(record.history, "user"), chosen, rejected, None, place, builder)
    return row if None in (row, best, worst) else row | {"chosen_score": best, "rejected_score": worst}


def _from_helpsteer3(record: HelpSteer3Row, place: str, builder: PairBuilder) -> Row | None:
    if record.overall_preference == 0:
        builder.drop("both responses are equally good", place)
        return None
    responses = (record.response1, record.response2)
    chosen, rejected = responses if record.overall_preference < 0 else reversed(responses)
    prompt = as_messages(as_chat(record.context, f"{place}: field 'context'"), "user")
    return canonical_row(prompt, chosen, rejected, None, place, builder)


def _rated_helpsteer(record: HelpSteerRow, place: str) -> list[RatedResponse]:
    return [RatedResponse(as_messages(record.prompt, "user"), record.response, record.helpfulness)]


def _rated_responses(record: ResponsesRow, place: str) -> list[RatedResponse]:
    if len(record.responses) != len(record.scores):
        counts = f"{len(record.responses)} responses and {len(record.scores)} scores"
        raise UserError(f"{place} has {counts}; each response needs one")
    prompt = as_chat(record.prompt, f"{place}: field 'prompt'")
    responses = [as_chat(each, f"{place}: response {n}") for n, each in enumerate(record.responses, start=1)]
    return [RatedResponse(prompt, each, score) for each, score in zip(responses, record.scores, strict=True)]


def _rated_text(record: ScoredRow, place: str) -> list[RatedResponse]:
    prompt, response = (as_chat(getattr(record, name), f"{place}: field '{name}'") for name in ("prompt", "text"))
    return [RatedResponse(prompt, response, record.reward, record.ended)]


@dataclass(frozen=True)
class RowFormat:
    """What rows of a format have, and what turns one into a canonical row.

    kind: a dataclass of the fields; those without default recognise the format. convert: (fields, place, builder) ->
    canonical row, or None for one that `builder` has counted as dropped; or rate: (fields, place) -> rated responses,
    of which the best and the worst of a prompt are a pair. other_names: field -> further names of it. holds: a further
    condition on a row.
    """

    name: str
    kind: type
    convert: Callable[[Any, str, PairBuilder], Row | None] | None = None
    rate: Callable[[Any, str], list[RatedResponse]] | None = None
    other_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    holds: Callable[[Row], bool] = lambda row: True

    @property
    def required(self) -> list[str]:
        """The fields that recognise it."""
        return [each.name for each in fields(self.kind) if each.default is MISSING]

    def with_names(self, row: Row) -> Row:
        """The row with the names of fields that `kind` has."""
        present = {
            name: next((other for other in others if row.get(other) is not None), None)
            for name, others in self.other_names.items()
            if row.get(name) is None
        }
        return row | {name: row[other] for name, other in present.items() if other is not None}

    def matches(self, row: Row) -> bool:
        """Whether a row has all fields that recognise the format."""
        named = self.with_names(row)
        return all(named.get(name) is not None for name in self.required) and self.holds(row)


def _are_transcripts(row: Row) -> bool:
    return all(isinstance(row[side], str) and row[side].startswith(HUMAN) for side in ("chosen", "rejected"))


def _share_a_prompt(row: Row) -> bool:
    """Whether chosen and rejected are chats; or texts with a common beginning, and no other field looks like a prompt:
    a text of several words."""
    sides = row["chosen"], row["rejected"]
    if not all(isinstance(side, str) for side in sides):
        return True
    others = [value for name, value in row.items() if name not in ("chosen", "rejected", *OPTIONAL)]
    looks_like_prompt = any(isinstance(value, str) and len(value.split()) > 1 for value in others)
    return not looks_like_prompt and bool(_split_texts(*sides)[0].strip())


RESPONSE_NAMES = {"text": ("completion", "response"), "reward": ("score",)}
LIST_NAMES = {"responses": ("completions",), "scores": ("rewards",)}
ROW_FORMATS = (
    RowFormat("HelpSteer3", HelpSteer3Row, _from_helpsteer3),
    RowFormat("SHP", ShpRow, _from_shp),
    RowFormat("prompt, chosen, rejected", PromptRow, _from_prompt),
    RowFormat("ShareGPT", ShareGptRow, _from_chat_in("conversations")),
    RowFormat("ShareGPT with messages", MessagesRow, _from_chat_in("messages")),
    RowFormat("Alpaca", AlpacaRow, _from_alpaca),
    RowFormat("Alpaca with two outputs", AlpacaOutputRow, _from_alpaca),
    RowFormat("Orca", OrcaRow, _from_chat_in("question"), other_names={"question": ("input",)}),
    RowFormat("HH transcripts", TranscriptRow, _from_transcripts, holds=_are_transcripts),
    RowFormat("chosen, rejected", PairRow, _from_pair, holds=_share_a_prompt),
    RowFormat("responses with scores", ResponsesRow, rate=_rated_responses, other_names=LIST_NAMES),
    RowFormat("HelpSteer", HelpSteerRow, rate=_rated_helpsteer),
    RowFormat("one response with a score", ScoredRow, rate=_rated_text, other_names=RESPONSE_NAMES),
)
"""The first one that the first row matches is that of all rows."""


def canonical_rows(rows: PlacedRows, builder: PairBuilder) -> Iterator[tuple[str, Row]]:
    """(place, canonical row) of preference data in any of `ROW_FORMATS`; `builder` counts rows that give none.

    The format of the first row is that of all. Raises UserError, naming the place, for a first row of no format and for
    any other row that does not fit.
    """
    rated: list[Candidate] = []
    row_format = None
    for place, row in rows:
        if row_format is None:
            row_format = recognise(row, place)
            print(f"{place}: read as '{row_format.name}'", file=sys.stderr, flush=True)
        if isinstance(row, dict):
            row = row_format.with_names(row)
            if row_format.kind is PairRow and row.get("prompt") is not None:
                raise UserError(f"{place}: has a field 'prompt', which the first row does not have")
        record = as_record(row, row_format.kind, place)
        if row_format.rate is None:
            canonical = row_format.convert(record, place, builder)
            if canonical is not None:
                yield place, canonical | _optional(row, place)
            continue
        for each in row_format.rate(record, place):
            if isinstance(each.response, str) and not each.response.strip():
                builder.drop("a response is empty", place)
                continue
            key = json.dumps(each.prompt, sort_keys=True, default=str)
            rated.append(Candidate(place, key, each.score, (each, row)))
    for best, worst in best_against_worst(rated, builder):
        if (canonical := _from_rated(best, worst, builder)) is not None:
            yield best.place, canonical


def _from_rated(best: Candidate, worst: Candidate, builder: PairBuilder) -> Row | None:
    """A pair of rated responses; the optional fields are those of the better one's row."""
    (chosen, row), (rejected, _) = best.item, worst.item
    canonical = canonical_row(chosen.prompt, chosen.response, rejected.response, None, best.place, builder)
    if canonical is None:
        return None
    if isinstance(canonical["prompt"], str):
        canonical |= {side: add_space(canonical["prompt"], canonical[side]) for side in ("chosen", "rejected")}
    scores = {"chosen_score": best.reward, "rejected_score": worst.reward}
    ended = {"chosen_ended": chosen.ended, "rejected_ended": rejected.ended}
    return canonical | _optional(row, best.place) | scores | ended


def recognise(row: Any, place: str) -> RowFormat:
    """The format of a row. Raises UserError, with the fields of the row, where it is none of `ROW_FORMATS`."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: a row must be an object with named fields, not {format_value(row, 40)}")
    row_format = next((each for each in ROW_FORMATS if each.matches(row)), None)
    if row_format is not None:
        return row_format
    names = one_line(", ".join(map(str, row)), 200) or "none"
    if {"prompt", "completion", "label"} <= row.keys():
        raise UserError(f"{place}: rows with a label are unpaired; write preferences.source: unpaired")
    raise UserError(f"{place}: no known format has these fields: {names}; say which columns they are, as in\n{EXAMPLE}")


def unpaired_rows(rows: PlacedRows, builder: PairBuilder) -> Iterator[tuple[str, Row]]:
    """(place, canonical row) of rows {"prompt", "completion", "label"}: a good with a bad response.

    Of a prompt that has both, the first good one with the first bad one, and so on. Of the prompts that have one kind
    alone, in the order of the data, with a `rejected_prompt`. Those that are left are counted by `builder`.
    """
    groups: dict[str, tuple[Chat, dict[bool, list[tuple[str, Chat]]]]] = {}
    for place, row in rows:
        record = as_record(row, UnpairedRow, place)
        prompt, completion = (
            as_chat(getattr(record, name), f"{place}: field '{name}'") for name in ("prompt", "completion")
        )
        key = json.dumps(prompt, sort_keys=True, default=str)
        _, sides = groups.setdefault(key, (prompt, {True: [], False: []}))
        sides[bool(record.label)].append((place, completion))
    alone: dict[bool, list[tuple[str, Chat, Chat]]] = {True: [], False: []}
    for prompt, sides in groups.values():
        for (place, chosen), (_, rejected) in zip(sides[True], sides[False], strict=False):
            if (canonical := canonical_row(prompt, chosen, rejected, None, place, builder)) is not None:
                yield place, canonical
        for label, responses in sides.items():
            if not sides[not label]:
                alone[label] += [(place, prompt, response) for place, response in responses]
            for place, _ in responses[len(sides[not label]) :] if sides[not label] else ():
                builder.drop("a response more than the other responses to its prompt", place)
    for (place, prompt, chosen), (_, other_prompt, rejected) in zip(alone[True], alone[False], strict=False):
        if (canonical := canonical_row(prompt, chosen, rejected, None, place, builder)) is not None:
            yield place, canonical | {"rejected_prompt": other_prompt}
    paired = min(map(len, alone.values()))
    for label, word in ((True, "good"), (False, "bad")):
        for place, _, _ in alone[label][paired:]:
            builder.drop(f"more {word} responses than others", place)
