"""From text to padded tensors: tokenise prompt and response apart, drop what cannot train, put pairs into a batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsepo.data.records import Preference
from sparsepo.objective.terms import Rows, response_rows


@dataclass(frozen=True)
class TokenPair:
    """Token ids of one preference; all three non-empty."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


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
            pairs.append(TokenPair(prompt, chosen, rejected))
            kept.append(place)
        else:
            dropped[reason] += 1
    return Encoded(pairs, kept, dict(dropped))


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


def collate(pairs: Sequence[TokenPair], pad_id: int) -> dict[str, Tensor]:
    """A batch of b pairs as 2b sequences, the chosen ones first; see `collate_responses`."""
    prompts = [pair.prompt for pair in pairs] * 2
    return collate_responses(prompts, [p.chosen for p in pairs] + [p.rejected for p in pairs], pad_id)


def collate_responses(prompts: Sequence[list[int]], responses: Sequence[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Prompts followed by responses, right-padded.

        prompts  [[7, 8], [7, 8]]   responses [[1, 2], [3]]
        ids      [[7, 8, 1, 2], [7, 8, 3, pad]]
        index    [1, 2, 5]     rows of the flattened hidden states that predict 1, 2 and 3
        valid    [[True, True], [True, False]]

    Padding is told from the attention mask, never from the ids: `pad_id` may be the end token.
    """
    sequences = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    longest = max(map(len, sequences))
    ids = torch.tensor([sequence + [pad_id] * (longest - len(sequence)) for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])[:, None]
    position = torch.arange(longest)
    response = (position >= torch.tensor([len(prompt) for prompt in prompts])[:, None]) & (position < lengths)
    return {"input_ids": ids, "attention_mask": (position < lengths).long(), **vars(response_rows(response))}


def rows_of(batch: dict[str, Tensor]) -> Rows:
    """The response rows that `collate` put into a batch."""
    return Rows(**{name: batch[name] for name in ("index", "target", "slot", "valid")})


class PairCollator:
    """`collate` as the callable that a data loader wants."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, pairs: Sequence[TokenPair]) -> dict[str, Tensor]:
        return collate(pairs, self.pad_id)
