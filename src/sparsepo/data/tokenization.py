"""From text to token ids: prompts, responses and preference pairs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsepo.data.records import Preference
from sparsepo.runtime.errors import UserError


@dataclass(frozen=True)
class TokenPair:
    """Token ids of one preference, all three non-empty.

    values: numbers for the tokens of the chosen and of the rejected response, as many as it has tokens. scores: of the
    chosen and of the rejected response.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    values: tuple[list[float], list[float]] | None = None
    scores: tuple[float, float] | None = None


@dataclass(frozen=True)
class EncodedPairs:
    """The usable pairs, the index of each among the records, and how many others were dropped for which reason."""

    pairs: list[TokenPair]
    indices: list[int]
    dropped: dict[str, int]


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Ids of a prompt, with the tokens that the tokenizer puts first (a BOS, for some) and without an end token."""
    ids = list(tokenizer(prompt)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def encode_response(tokenizer: Any, response: str, ended: bool) -> list[int]:
    """Ids of a response, tokenised apart from its prompt; with the end token if the response has ended."""
    ids = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    return ids + [tokenizer.eos_token_id] if ended else ids


def encode_pairs(
    tokenizer: Any, records: Sequence[Preference], max_prompt: int, max_response: int, context: int
) -> EncodedPairs:
    """Token pairs; responses are cut at `max_response` tokens and where the model's `context` ends.

    Pairs that cannot be used are dropped and counted. A prompt longer than `max_prompt`, or one that leaves no room in
    the context, is not cut, as that would change what was preferred: its pair is dropped. Raises UserError where a
    record does not have as many values as tokens.
    """
    pairs, indices, dropped = [], [], Counter()
    for index, record in enumerate(records):
        prompt = encode_prompt(tokenizer, record.prompt)
        room = max(0, min(max_response, context - len(prompt)))
        chosen = encode_response(tokenizer, record.chosen, record.chosen_ended)[:room]
        rejected = encode_response(tokenizer, record.rejected, record.rejected_ended)[:room]
        reason = _unusable_reason(record, prompt, chosen, rejected, min(max_prompt, context - 1))
        if reason is None:
            values = _checked_values(tokenizer, record, index)
            cut_values = None if values is None else (values[0][: len(chosen)], values[1][: len(rejected)])
            pairs.append(TokenPair(prompt, chosen, rejected, cut_values, _scores(record)))
            indices.append(index)
        else:
            dropped[reason] += 1
    return EncodedPairs(pairs, indices, dict(dropped))


def add_token_values(
    tokenizer: Any, record: Preference, chosen: Sequence[float], rejected: Sequence[float]
) -> Preference:
    """The record with these numbers of its tokens; tokens that were cut, which have none, get 0."""
    values = {"chosen": list(chosen), "rejected": list(rejected)}
    for side, numbers in values.items():
        numbers += [0.0] * (_response_length(tokenizer, record, side) - len(numbers))
    return replace(record, chosen_values=values["chosen"], rejected_values=values["rejected"])


def _checked_values(tokenizer: Any, record: Preference, index: int) -> tuple[list[float], list[float]] | None:
    """The numbers of a record's tokens, if it has some. Raises UserError unless both responses have one a token."""
    both = record.chosen_values, record.rejected_values
    if both == (None, None):
        return None
    for side, values in zip(("chosen", "rejected"), both, strict=True):
        count = _response_length(tokenizer, record, side)
        if values is None or len(values) != count:
            problem = "is missing" if values is None else f"has {len(values)} numbers"
            end = ", its end token included" if getattr(record, f"{side}_ended") else ""
            raise UserError(f"pair {index + 1}: field '{side}_values' {problem}; the response has {count} tokens{end}")
    return both


def _response_length(tokenizer: Any, record: Preference, side: str) -> int:
    """Number of tokens of a response before it is cut."""
    return len(encode_response(tokenizer, getattr(record, side), getattr(record, f"{side}_ended")))


def _scores(record: Preference) -> tuple[float, float] | None:
    scores = record.chosen_score, record.rejected_score
    return None if None in scores else scores


def _unusable_reason(
    record: Preference, prompt: list[int], chosen: list[int], rejected: list[int], max_prompt: int
) -> str | None:
    """Why a pair cannot be used, or None."""
    if not prompt:
        return "prompt is empty"
    if len(prompt) > max_prompt:
        return f"prompt is longer than {max_prompt} tokens"
    for name, text, ids in (("chosen", record.chosen, chosen), ("rejected", record.rejected, rejected)):
        if not text.strip() or not ids:
            return f"{name} is empty"
    return "responses are equal after tokenisation and truncation" if chosen == rejected else None
