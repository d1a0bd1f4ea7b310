"""From text to padded tensors: tokenise prompt and response apart, drop what cannot train, put pairs into a batch."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from sparsepo.data.records import Preference
from sparsepo.objective.token_terms import ResponseIndex, response_rows, rows_at
from sparsepo.runtime.errors import UserError


@dataclass(frozen=True)
class TokenPair:
    """Token ids of one preference, all three non-empty; with numbers of the tokens and scores of the responses, if any.

    values: those of the chosen and of the rejected response, as many as it has tokens. scores: chosen, rejected.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    values: tuple[list[float], list[float]] | None = None
    scores: tuple[float, float] | None = None


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Ids with whatever the tokenizer puts in front (a BOS, for some), never with an end token behind."""
    ids = list(tokenizer(prompt)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def encode_response(tokenizer: Any, response: str, ended: bool) -> list[int]:
    """Ids of the response alone, so that no token straddles the boundary; the end token follows if it has ended."""
    ids = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    return ids + [tokenizer.eos_token_id] if ended else ids


@dataclass(frozen=True)
class Encoded:
    """What became of the records: the usable pairs, where each stood among them, and why the rest was dropped."""

    pairs: list[TokenPair]
    kept: list[int]
    dropped: dict[str, int]


def encode_pairs(
    tokenizer: Any, records: Sequence[Preference], max_prompt: int, max_response: int, context: int
) -> Encoded:
    """Token pairs; responses are cut at `max_response` tokens and where the model's `context` ends.

    Pairs that cannot train are dropped and counted. A prompt longer than `max_prompt`, or one that leaves no room in
    the context, is not cut, as that would change what was preferred: its pair is dropped.
    """
    pairs, kept, dropped = [], [], Counter()
    for place, record in enumerate(records):
        prompt = encode_prompt(tokenizer, record.prompt)
        room = max(0, min(max_response, context - len(prompt)))
        chosen = encode_response(tokenizer, record.chosen, record.chosen_ended)[:room]
        rejected = encode_response(tokenizer, record.rejected, record.rejected_ended)[:room]
        reason = unusable(record, prompt, chosen, rejected, min(max_prompt, context - 1))
        if reason is None:
            values = _values_of(tokenizer, record, place)
            cut = None if values is None else (values[0][: len(chosen)], values[1][: len(rejected)])
            pairs.append(TokenPair(prompt, chosen, rejected, cut, _scores_of(record)))
            kept.append(place)
        else:
            dropped[reason] += 1
    return Encoded(pairs, kept, dict(dropped))


def _values_of(tokenizer: Any, record: Preference, place: int) -> tuple[list[float], list[float]] | None:
    """The numbers of a record's tokens. Raises UserError unless both responses have one for each token."""
    found = record.chosen_values, record.rejected_values
    if found == (None, None):
        return None
    for side, values in zip(("chosen", "rejected"), found, strict=True):
        count = _length(tokenizer, record, side)
        if values is None or len(values) != count:
            given = "is missing" if values is None else f"has {len(values)} numbers"
            end = ", its end token included" if getattr(record, f"{side}_ended") else ""
            raise UserError(f"pair {place + 1}: field '{side}_values' {given}; the response has {count} tokens{end}")
    return found


def with_values(tokenizer: Any, record: Preference, chosen: Sequence[float], rejected: Sequence[float]) -> Preference:
    """The record with these numbers of its tokens; a token that was cut, for which there is none, has 0."""
    given = {"chosen": chosen, "rejected": rejected}
    whole = {side: [*part, *[0.0] * (_length(tokenizer, record, side) - len(part))] for side, part in given.items()}
    return replace(record, chosen_values=whole["chosen"], rejected_values=whole["rejected"])


def _length(tokenizer: Any, record: Preference, side: str) -> int:
    """How many tokens a response has before it is cut."""
    return len(encode_response(tokenizer, getattr(record, side), getattr(record, f"{side}_ended")))


def _scores_of(record: Preference) -> tuple[float, float] | None:
    scores = record.chosen_score, record.rejected_score
    return None if None in scores else scores


def unusable(
    record: Preference, prompt: list[int], chosen: list[int], rejected: list[int], max_prompt: int
) -> str | None:
    """Why a pair cannot train, or None."""
    if not prompt:
        return "prompt is empty"
    if len(prompt) > max_prompt:
        return f"prompt is longer than {max_prompt} tokens"
    for name, text, ids in (("chosen", record.chosen, chosen), ("rejected", record.rejected, rejected)):
        if not text.strip() or not ids:
            return f"{name} is empty"
    return "responses are equal after tokenisation and truncation" if chosen == rejected else None


@dataclass(frozen=True)
class Layout:
    """How pairs become a batch.

    padded: 2b right-padded sequences, the chosen ones first. packed: all sequences in one row, without padding.
    shared: the same with each prompt once, its chosen and rejected response behind it. pairs: one right-padded row
    [prompt, chosen, rejected] a pair. In `shared` and `pairs` both responses continue the positions of their prompt and
    neither sees the other.
    """

    place: Callable[[Sequence[TokenPair], int], dict[str, Any]]
    cost: Callable[[Sequence[TokenPair]], int]


def collate(pairs: Sequence[TokenPair], pad_id: int, layout: str = "padded") -> dict[str, Any]:
    """A batch of b pairs in one of `LAYOUTS`: ids, positions, what may see what, the rows of the responses, and what
    the pairs bring.

    Rows are ordered pair by pair, chosen before rejected, and `ends` says where each pair ends; in the grid of 2b
    responses the chosen ones come first. `tokens` counts prompt and response of every sequence, whatever the layout.
    Raises ValueError for a pair with an empty part.
    """
    if not all(pair.prompt and pair.chosen and pair.rejected for pair in pairs):
        raise ValueError("each pair needs at least one prompt token and at least one response token on either side")
    batch = LAYOUTS[layout].place(pairs, pad_id)
    tokens = sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)
    ends = tuple(accumulate(len(p.chosen) + len(p.rejected) for p in pairs))
    return {**batch, **_brought(pairs), "ends": ends, "tokens": tokens}


def _brought(pairs: Sequence[TokenPair]) -> dict[str, Tensor]:
    """What all pairs bring: `values` (n,) in the order of the rows, `scores` (2b,) in that of the grid."""
    found = {}
    if all(pair.values for pair in pairs):
        found["values"] = [value for pair in pairs for side in pair.values for value in side]
    if all(pair.scores for pair in pairs):
        found["scores"] = [pair.scores[side] for side in (0, 1) for pair in pairs]
    return {name: torch.tensor(numbers) for name, numbers in found.items()}


def _rows(pairs: Sequence[TokenPair], first: Iterable[int], start: Iterable[int]) -> dict[str, Tensor]:
    """Rows of the responses in the order chosen, rejected of each pair."""
    length = [len(response) for pair in pairs for response in (pair.chosen, pair.rejected)]
    place = [side * len(pairs) + at for at in range(len(pairs)) for side in (0, 1)]
    return vars(rows_at(list(first), list(start), length, place))


def _padded(pairs: Sequence[TokenPair], pad_id: int) -> dict[str, Any]:
    ids = [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]
    longest = max(map(len, ids))
    start = [(side * len(pairs) + at) * longest + len(p.prompt) for at, p in enumerate(pairs) for side in (0, 1)]
    return _right_padded(ids, pad_id) | _rows(pairs, [place - 1 for place in start], start)


def _packed(pairs: Sequence[TokenPair], pad_id: int) -> dict[str, Any]:
    sequences = [pair.prompt + response for pair in pairs for response in (pair.chosen, pair.rejected)]
    prompts = [len(pair.prompt) for pair in pairs for _ in (0, 1)]
    begin = list(accumulate(map(len, sequences), initial=0))
    start = [place + prompt for place, prompt in zip(begin, prompts, strict=False)]
    return {
        "input_ids": torch.tensor([sum(sequences, [])]),
        "position_ids": torch.cat([torch.arange(len(sequence)) for sequence in sequences])[None],
        "segments": tuple((a, b, a, a) for a, b in pairwise(begin)),
        **_rows(pairs, [place - 1 for place in start], start),
    }


def _shared(pairs: Sequence[TokenPair], pad_id: int) -> dict[str, Any]:
    ids, positions, segments, first, start = [], [], [], [], []
    for pair in pairs:
        begin, prompt, chosen = len(ids), len(pair.prompt), len(pair.chosen)
        ids += pair.prompt + pair.chosen + pair.rejected
        middle = begin + prompt + chosen
        segments += [(begin, middle, begin, begin), (middle, len(ids), begin, begin + prompt)]
        positions += [*range(prompt + chosen), *range(prompt, prompt + len(pair.rejected))]
        first += [begin + prompt - 1] * 2
        start += [begin + prompt, middle]
    batch = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions]), "segments": tuple(segments)}
    return batch | _rows(pairs, first, start)


def _pairs(pairs: Sequence[TokenPair], pad_id: int) -> dict[str, Any]:
    ids = [pair.prompt + pair.chosen + pair.rejected for pair in pairs]
    longest = max(map(len, ids))
    positions, parts, first, start = torch.zeros(len(ids), longest, dtype=torch.long), [], [], []
    for at, pair in enumerate(pairs):
        prompt, chosen, rejected = len(pair.prompt), len(pair.chosen), len(pair.rejected)
        own = [*range(prompt + chosen), *range(prompt, prompt + rejected)]
        positions[at, : len(own)] = torch.tensor(own)
        parts.append([0] * prompt + [1] * chosen + [2] * rejected + [3] * (longest - len(own)))
        first += [at * longest + prompt - 1] * 2
        start += [at * longest + prompt, at * longest + prompt + chosen]
    batch = {"input_ids": _right_padded(ids, pad_id)["input_ids"], "position_ids": positions}
    return batch | {"parts": torch.tensor(parts)} | _rows(pairs, first, start)


def _longer(pair: TokenPair) -> int:
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def _once(pair: TokenPair) -> int:
    return len(pair.prompt) + len(pair.chosen) + len(pair.rejected)


LAYOUTS = {
    "shared": Layout(_shared, lambda pairs: sum(map(_once, pairs))),
    "packed": Layout(_packed, lambda pairs: sum(_once(pair) + len(pair.prompt) for pair in pairs)),
    "pairs": Layout(_pairs, lambda pairs: len(pairs) * max(map(_once, pairs))),
    "padded": Layout(_padded, lambda pairs: 2 * len(pairs) * max(map(_longer, pairs))),
}
"""By name; `cost` is the number of positions that the model computes, padding included."""


def split(
    places: Iterable[int], pairs: Sequence[TokenPair], layout: str, size: int | None, budget: int | None
) -> list[list[int]]:
    """Micro-batches of at most `size` pairs or `budget` positions (None: no limit), a pair beyond the budget alone.

    Pairs of like length go together, which saves padding; the longest first, as what does not fit should fail at once.
    """
    made: list[list[int]] = []
    for place in sorted(places, key=lambda place: LAYOUTS[layout].cost([pairs[place]]), reverse=True):
        group = [*made[-1], place] if made else [place]
        fits = len(group) <= (size or len(group)) and (
            budget is None or LAYOUTS[layout].cost([pairs[at] for at in group]) <= budget
        )
        if made and fits:
            made[-1] = group
        else:
            made.append([place])
    return made


def collate_responses(prompts: Sequence[list[int]], responses: Sequence[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Prompts followed by responses, right-padded.

        prompts  [[7, 8], [7, 8]]   responses [[1, 2], [3]]
        ids      [[7, 8, 1, 2], [7, 8, 3, pad]]
        index    [1, 2, 5]     rows of the flattened hidden states that predict 1, 2 and 3
        valid    [[True, True], [True, False]]

    Padding is told from the attention mask, never from the ids: `pad_id` may be the end token.
    """
    batch = _right_padded([prompt + response for prompt, response in zip(prompts, responses, strict=True)], pad_id)
    prompt = torch.arange(batch["input_ids"].shape[1]) < torch.tensor([len(prompt) for prompt in prompts])[:, None]
    return batch | vars(response_rows(batch["attention_mask"].bool() & ~prompt))


def _right_padded(sequences: Sequence[list[int]], pad_id: int) -> dict[str, Tensor]:
    longest = max(map(len, sequences))
    ids = torch.tensor([sequence + [pad_id] * (longest - len(sequence)) for sequence in sequences])
    mask = torch.arange(longest) < torch.tensor([len(sequence) for sequence in sequences])[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def rows_of(batch: dict[str, Any]) -> ResponseIndex:
    """The response rows that `collate` put into a batch."""
    return ResponseIndex(**{name: batch[name] for name in ("index", "target", "slot", "valid")})


def onto(device: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its tensors on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
