"""From token ids to batches: preference pairs in one of three layouts, and responses to prompts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from sparsepo.data.batches import ModelInputs, PairBatch, ResponseBatch, Segment
from sparsepo.data.encoding import TokenPair
from sparsepo.objective.response_index import ResponseIndex


@dataclass(frozen=True)
class Layout:
    """How pairs become a batch.

    padded: 2b right-padded sequences, the chosen ones first. shared: one row without padding, each prompt once, its
    chosen and its rejected response after it. pairs: one right-padded row [prompt, chosen, rejected] for each pair. In
    `shared` and `pairs` both responses continue the positions of their prompt and neither sees the other.
    """

    arrange: Callable[[Sequence[TokenPair], int], tuple[ModelInputs, ResponseIndex]]
    num_positions: Callable[[Sequence[TokenPair]], int]


def collate_pairs(pairs: Sequence[TokenPair], pad_id: int, layout: str = "padded") -> PairBatch:
    """A batch of pairs in one of `LAYOUTS`. Raises ValueError for a pair with an empty part, or with two prompts.

    Padding is known from positions, never from ids: `pad_id` may be any token.
    """
    if not all(pair.prompt and pair.chosen and pair.rejected for pair in pairs):
        raise ValueError("each pair needs at least one prompt token and at least one response token on either side")
    if layout != "padded" and any(pair.rejected_prompt for pair in pairs):
        raise ValueError(f"layout '{layout}' has one prompt for both responses; a pair has two: take 'padded'")
    inputs, responses = LAYOUTS[layout].arrange(pairs, pad_id)
    values = scores = None
    if all(pair.values for pair in pairs):
        values = torch.tensor([value for pair in pairs for side in pair.values for value in side])
    if all(pair.scores for pair in pairs):
        scores = torch.tensor([pair.scores[side] for side in (0, 1) for pair in pairs])
    return PairBatch(
        num_tokens=sum(sum(map(len, (*pair.prompts, pair.chosen, pair.rejected))) for pair in pairs),
        inputs=inputs,
        responses=responses,
        pair_ends=tuple(accumulate(len(pair.chosen) + len(pair.rejected) for pair in pairs)),
        values=values,
        scores=scores,
    )


def _index_responses(pairs: Sequence[TokenPair], before: Iterable[int], start: Iterable[int]) -> ResponseIndex:
    """Of the responses in the order chosen, rejected of each pair; before and start as in ResponseIndex.from_spans."""
    length = [len(response) for pair in pairs for response in (pair.chosen, pair.rejected)]
    grid_row = [side * len(pairs) + number for number in range(len(pairs)) for side in (0, 1)]
    return ResponseIndex.from_spans(list(before), list(start), length, grid_row)


def _arrange_padded(pairs: Sequence[TokenPair], pad_id: int) -> tuple[ModelInputs, ResponseIndex]:
    sequences = [pair.prompts[0] + pair.chosen for pair in pairs] + [pair.prompts[1] + pair.rejected for pair in pairs]
    inputs = _right_padded(sequences, pad_id)
    longest = inputs.input_ids.shape[1]
    start = [
        (side * len(pairs) + number) * longest + len(pair.prompts[side])
        for number, pair in enumerate(pairs)
        for side in (0, 1)
    ]
    return inputs, _index_responses(pairs, [place - 1 for place in start], start)


def _arrange_shared(pairs: Sequence[TokenPair], pad_id: int) -> tuple[ModelInputs, ResponseIndex]:
    ids, positions, segments, before, start = [], [], [], [], []
    for pair in pairs:
        begin, prompt_end = len(ids), len(ids) + len(pair.prompt)
        middle = prompt_end + len(pair.chosen)
        ids += pair.prompt + pair.chosen + pair.rejected
        segments += [Segment(begin, middle, begin, begin), Segment(middle, len(ids), begin, prompt_end)]
        positions += _shared_positions(pair)
        before += [prompt_end - 1] * 2
        start += [prompt_end, middle]
    inputs = ModelInputs(torch.tensor([ids]), torch.tensor([positions]), segments=tuple(segments))
    return inputs, _index_responses(pairs, before, start)


def _arrange_pairs(pairs: Sequence[TokenPair], pad_id: int) -> tuple[ModelInputs, ResponseIndex]:
    input_ids = _right_padded([pair.prompt + pair.chosen + pair.rejected for pair in pairs], pad_id).input_ids
    longest = input_ids.shape[1]
    position_ids, parts = torch.zeros_like(input_ids), torch.full_like(input_ids, 3)
    before, start = [], []
    for row, pair in enumerate(pairs):
        prompt, chosen, rejected = len(pair.prompt), len(pair.chosen), len(pair.rejected)
        length = prompt + chosen + rejected
        position_ids[row, :length] = torch.tensor(_shared_positions(pair))
        parts[row, :length] = torch.tensor([0] * prompt + [1] * chosen + [2] * rejected)
        before += [row * longest + prompt - 1] * 2
        start += [row * longest + prompt, row * longest + prompt + chosen]
    return ModelInputs(input_ids, position_ids, parts=parts), _index_responses(pairs, before, start)


def _shared_positions(pair: TokenPair) -> list[int]:
    """Positions of prompt, chosen and rejected response, where both responses follow the prompt."""
    prompt = len(pair.prompt)
    return [*range(prompt + len(pair.chosen)), *range(prompt, prompt + len(pair.rejected))]


def _right_padded(sequences: Sequence[list[int]], pad_id: int) -> ModelInputs:
    longest = max(map(len, sequences))
    ids = torch.tensor([sequence + [pad_id] * (longest - len(sequence)) for sequence in sequences])
    mask = torch.arange(longest) < torch.tensor([len(sequence) for sequence in sequences])[:, None]
    return ModelInputs.with_padding(ids, mask.long())


def _longer_length(pair: TokenPair) -> int:
    return max(len(pair.prompts[0]) + len(pair.chosen), len(pair.prompts[1]) + len(pair.rejected))


def _shared_length(pair: TokenPair) -> int:
    return len(pair.prompt) + len(pair.chosen) + len(pair.rejected)


LAYOUTS = {
    "shared": Layout(_arrange_shared, lambda pairs: sum(map(_shared_length, pairs))),
    "pairs": Layout(_arrange_pairs, lambda pairs: len(pairs) * max(map(_shared_length, pairs))),
    "padded": Layout(_arrange_padded, lambda pairs: 2 * len(pairs) * max(map(_longer_length, pairs))),
}
"""By name; `num_positions` is the number of positions that the model computes, padding included."""


def split_into_micro_batches(
    indices: Iterable[int],
    pairs: Sequence[TokenPair],
    layout: str,
    max_pairs: int | None,
    max_positions: int | None,
) -> list[list[int]]:
    """Micro-batches of at most `max_pairs` pairs or `max_positions` positions (None: no limit).

    A pair of more positions is alone. Pairs of similar length go together, which saves padding; the longest first, so
    that a run that does not fit into memory fails at once.
    """
    num_positions = LAYOUTS[layout].num_positions
    micro_batches: list[list[int]] = []
    for index in sorted(indices, key=lambda index: num_positions([pairs[index]]), reverse=True):
        grown = [*micro_batches[-1], index] if micro_batches else [index]
        fits = len(grown) <= (max_pairs or len(grown)) and (
            max_positions is None or num_positions([pairs[member] for member in grown]) <= max_positions
        )
        if micro_batches and fits:
            micro_batches[-1] = grown
        else:
            micro_batches.append([index])
    return micro_batches


def collate_responses(prompts: Sequence[list[int]], responses: Sequence[list[int]], pad_id: int) -> ResponseBatch:
    """Prompts followed by responses, right-padded.

        prompts    [[7, 8], [7, 8]]   responses [[1, 2], [3]]
        input_ids  [[7, 8, 1, 2], [7, 8, 3, pad]]
        hidden     [1, 2, 5]     rows of the flattened hidden states that predict 1, 2 and 3
        valid      [[True, True], [True, False]]

    Raises ValueError for an empty prompt or response.
    """
    if not (all(prompts) and all(responses)):
        raise ValueError("each sequence needs at least one prompt token and at least one response token")
    sequences = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    inputs = _right_padded(sequences, pad_id)
    start = [row * inputs.input_ids.shape[1] + len(prompt) for row, prompt in enumerate(prompts)]
    index = ResponseIndex.from_spans(
        [place - 1 for place in start], start, list(map(len, responses)), range(len(start))
    )
    return ResponseBatch(num_tokens=sum(map(len, sequences)), inputs=inputs, responses=index)
