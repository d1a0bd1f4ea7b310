"""Where the tokens of a response are in its text, and which of them the planted words make up."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from sparsepo.data.encoding import TokenPair
from sparsepo.data.planted import planted_spans
from sparsepo.data.records import Preference

Span = tuple[int, int]
"""Characters [start, end) of a text."""


def split_tokens(tokenizer: Any, text: str, ids: Sequence[int]) -> tuple[list[str], list[Span]]:
    """The tokens of a response as text, and their spans in it; a token that is not in the text has an empty span."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if encoded["input_ids"][: len(ids)] == ids[: len(encoded["input_ids"])]:
        spans = [(int(start), int(end)) for start, end in encoded["offset_mapping"]][: len(ids)]
        spans += [(len(text), len(text))] * (len(ids) - len(spans))
    else:  # behind their prompt, or as they were sampled, the tokens are others than those of the text alone
        decoded = [tokenizer.decode(ids[:count], skip_special_tokens=True) for count in range(len(ids) + 1)]
        spans = list(pairwise(min(len(part), len(text)) for part in decoded))
    names = tokenizer.convert_ids_to_tokens(ids)
    return [text[start:end] or name for (start, end), name in zip(spans, names, strict=True)], spans


def mark_overlaps(tokens: Sequence[Span], planted: Sequence[Span]) -> list[int]:
    """1 for each token that shares a character with a planted span, else 0."""
    return [int(any(start < last and end > first for first, last in planted)) for start, end in tokens]


def planted_weights(
    tokenizer: Any, records: Sequence[Preference], pairs: Sequence[TokenPair], truth: Literal["words", "slots"]
) -> list[tuple[list[float], list[float]]]:
    """1 on the tokens of the planted `truth`, 0 elsewhere, of the chosen and the rejected tokens of each pair.

    pairs: the token ids of `records`.
    """

    def weights(prompt: str, text: str, ids: list[int]) -> list[float]:
        _, spans = split_tokens(tokenizer, text, ids)
        return list(map(float, mark_overlaps(spans, planted_spans(text, truth, prompt))))

    return [
        (weights(record.prompt, record.chosen, pair.chosen), weights(record.prompt, record.rejected, pair.rejected))
        for record, pair in zip(records, pairs, strict=True)
    ]
