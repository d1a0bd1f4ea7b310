"""From text to token ids, for every stage: prompts, responses, preference pairs, and where a response ends."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from sparsepo.data.chat import end_of_turn_id
from sparsepo.data.records import Completion, Preference, Prompt
from sparsepo.runtime.errors import UserError

NEUTRAL_TEXTS = ("", "\n", "a", ".", "0", "é", "中")
"""A response is encoded apart from its prompt behind the first of these that leaves its tokens as they are."""


@dataclass(frozen=True)
class TokenPair:
    """Token ids of one preference, all three non-empty.

    values: numbers for the tokens of the chosen and of the rejected response, as many as it has tokens. scores: of the
    chosen and of the rejected response. rejected_prompt: where the rejected response is one to another prompt.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    values: tuple[list[float], list[float]] | None = None
    scores: tuple[float, float] | None = None
    rejected_prompt: list[int] | None = None

    @property
    def prompts(self) -> tuple[list[int], list[int]]:
        """Of the chosen and of the rejected response."""
        return self.prompt, self.rejected_prompt or self.prompt


@dataclass(frozen=True)
class EncodedPairs:
    """The usable pairs, the index of each among the records, and how many others were dropped for which reason.

    num_cut: usable pairs with a response that was cut. num_merged: usable pairs where the tokenizer would have made one
    token of the end of the prompt and the start of a response.
    """

    pairs: list[TokenPair]
    indices: list[int]
    dropped: dict[str, int]
    num_cut: int = 0
    num_merged: int = 0


class Encoder:
    """Turns texts into token ids with one tokenizer, so that ids of prompt and response decode to the text of both.

    model: its `generation_config` names more tokens that end a response. A text that the chat template of the tokenizer
    rendered (`rendered`) has all its special tokens; to any other text the tokenizer adds what it puts in front of
    texts, as a BOS, unless the text begins with it.
    """

    def __init__(self, tokenizer: Any, model: Any = None):
        self.tokenizer = tokenizer
        self._encode = lru_cache(maxsize=8)(self._encode_text)  # a prompt is encoded once for its responses
        self._generation_ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)

    @cached_property
    def prefix(self) -> list[int]:
        """The ids that the tokenizer puts in front of a text."""
        plain, full = self._ids("a"), list(self.tokenizer("a")["input_ids"])
        starts = [start for start in range(len(full)) if full[start : start + len(plain)] == plain]
        return full[: starts[0]] if starts else []

    @cached_property
    def turn_end_id(self) -> int:
        """The token that ends a response which the chat template renders."""
        return end_of_turn_id(self.tokenizer)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """All tokens that end a response: of the tokenizer, of the model's generation config, of the chat template."""
        named = self._generation_ends
        named = list(named) if isinstance(named, (list, tuple)) else [named] * (named is not None)
        template = [self.turn_end_id] if getattr(self.tokenizer, "chat_template", None) else []
        return frozenset([self.tokenizer.eos_token_id, *named, *template])

    def encode_prompt(self, prompt: str, rendered: bool = False) -> list[int]:
        """Ids of a prompt; end tokens that its text contains stay."""
        ids, prefix = self._ids(prompt), [] if rendered else self.prefix
        return ids if ids[: len(prefix)] == prefix else prefix + ids

    def encode_response(self, prompt: str, response: str, ended: bool, rendered: bool = False) -> list[int]:
        """Ids of a response after its prompt; with an end token if it has ended and its text has none at its end."""
        return self.encode_both(prompt, response, ended, rendered)[0]

    def encode_both(self, prompt: str, response: str, ended: bool, rendered: bool = False) -> tuple[list[int], bool]:
        """(ids of the response, whether the tokenizer would merge its first token with the last one of the prompt)."""
        prompt_ids, whole = self._ids(prompt), self._ids(prompt + response)
        merged = whole[: len(prompt_ids)] != prompt_ids
        ids = self._encode_apart(prompt_ids, prompt, response) if merged else whole[len(prompt_ids) :]
        if ended and not (ids and ids[-1] in self.end_ids):
            ids = [*ids, self.turn_end_id if rendered else self.tokenizer.eos_token_id]
        return ids, merged

    def _encode_apart(self, prompt_ids: list[int], prompt: str, response: str) -> list[int]:
        """Ids of a response such that those of the prompt and these decode to both texts, as far as ids can."""
        texts = (prompt + response, self._decode(self._ids(prompt + response)))
        candidates = []
        for neutral in NEUTRAL_TEXTS:
            start, ids = self._ids(neutral), self._ids(neutral + response)
            if ids[: len(start)] == start:
                candidates.append(ids[len(start) :])
                if self._decode(prompt_ids + candidates[-1]) in texts:
                    return candidates[-1]
        return candidates[0]

    def _ids(self, text: str) -> list[int]:
        return list(self._encode(text))

    def _encode_text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def prompt_ids(self, record: Prompt | Preference | Completion) -> list[int]:
        """Ids of the prompt of a record."""
        return self.encode_prompt(record.prompt, record.rendered)

    def side_ids(self, record: Preference, side: str) -> tuple[list[int], bool]:
        """As `encode_both`, for the `chosen` or `rejected` response; one that was sampled keeps the ids drawn."""
        sampled = getattr(record, f"{side}_ids")
        if sampled is not None:
            return list(sampled), False
        prompt = record.prompt
        if side == "rejected" and record.rejected_prompt is not None:
            prompt = record.rejected_prompt
        return self.encode_both(prompt, getattr(record, side), getattr(record, f"{side}_ended"), record.rendered)


def encode_pairs(
    encoder: Encoder, records: Sequence[Preference], max_prompt: int, max_response: int, context: int
) -> EncodedPairs:
    """Token pairs; responses are cut at `max_response` tokens and where the model's `context` ends.

    Pairs that cannot be used are dropped and counted. A prompt longer than `max_prompt`, or one that leaves no room in
    the context, is not cut, as that would change what was preferred: its pair is dropped. Raises UserError where a
    record does not have as many values as tokens.
    """
    pairs, indices, dropped, counts = [], [], Counter(), Counter()
    for index, record in enumerate(records):
        prompt, own_prompt = encoder.prompt_ids(record), None
        if record.rejected_prompt is not None:
            own_prompt = encoder.encode_prompt(record.rejected_prompt, record.rendered)
        longest = max(prompt, own_prompt or [], key=len)
        room = max(0, min(max_response, context - len(longest)))
        (chosen, chosen_merged), (rejected, rejected_merged) = (
            encoder.side_ids(record, side) for side in ("chosen", "rejected")
        )
        full = chosen, rejected
        chosen, rejected = chosen[:room], rejected[:room]
        reason = _unusable_reason(record, longest, chosen, rejected, min(max_prompt, context - 1))
        if reason is None:
            values = _checked_values(record, index, full)
            cut_values = None if values is None else (values[0][: len(chosen)], values[1][: len(rejected)])
            pairs.append(TokenPair(prompt, chosen, rejected, cut_values, _scores(record), own_prompt))
            indices.append(index)
            counts.update(cut=max(map(len, full)) > room, merged=chosen_merged or rejected_merged)
        else:
            dropped[reason] += 1
    return EncodedPairs(pairs, indices, dict(dropped), counts["cut"], counts["merged"])


def add_token_values(
    encoder: Encoder, record: Preference, chosen: Sequence[float], rejected: Sequence[float]
) -> Preference:
    """The record with these numbers of its tokens; tokens that were cut, which have none, get 0."""
    values = {"chosen": list(chosen), "rejected": list(rejected)}
    for side, numbers in values.items():
        numbers += [0.0] * (len(encoder.side_ids(record, side)[0]) - len(numbers))
    return replace(record, chosen_values=values["chosen"], rejected_values=values["rejected"])


def _checked_values(
    record: Preference, index: int, responses: tuple[list[int], list[int]]
) -> tuple[list[float], list[float]] | None:
    """The numbers of a record's tokens, if it has some. Raises UserError unless both responses have one a token."""
    both = record.chosen_values, record.rejected_values
    if both == (None, None):
        return None
    for side, values, ids in zip(("chosen", "rejected"), both, responses, strict=True):
        if values is None or len(values) != len(ids):
            problem = "is missing" if values is None else f"has {len(values)} numbers"
            end = ", its end token included" if getattr(record, f"{side}_ended") else ""
            raise UserError(
                f"pair {index + 1}: field '{side}_values' {problem}; the response has {len(ids)} tokens{end}"
            )
    return both


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
    equal = chosen == rejected and record.rejected_prompt is None
    return "responses are equal after tokenisation and truncation" if equal else None
