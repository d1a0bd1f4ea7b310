"""Token by token on a batch that shrinks: a row that has ended costs nothing more, and no step copies the cache."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer

Draw = Callable[[Tensor, Tensor, int], Tensor]  # logits (b v), rows (b), step -> tokens (b)
Ending = Callable[[list[int]], bool]  # the tokens of a response so far -> whether it is complete


def is_plain(model: Any) -> bool:
    """Whether all that the next token needs are keys and values of all positions, a mask and position ids.

    Not so for windows, recurrent states, positions made inside the model, or a model that prepares its own inputs.
    """
    takes = set(inspect.signature(model.forward).parameters)
    prepare = getattr(type(model), "prepare_inputs_for_generation", None)
    return (
        {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"} <= takes
        and prepare is GenerationMixin.prepare_inputs_for_generation
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    )


def decode(model: Any, rows: Sequence[list[int]], draw: Draw, over: Ending, most: int) -> list[list[int]]:
    """The continuation of each row up to and with the token at which it is `over`, at most `most` tokens.

    When a row ends, the last one takes its place and the batch is one row shorter.
    """
    device = next(model.parameters()).device
    lengths = torch.tensor([len(row) for row in rows], device=device)
    longest = int(lengths.max())
    valid = torch.arange(longest + most, device=device) >= longest - lengths[:, None]
    cache, logits = prefill(model, rows, longest + most)
    found: list[list[int]] = [[] for _ in rows]
    live = torch.arange(len(rows))  # which row stands where in the batch
    for step in range(most):
        tokens = draw(logits, live, step)
        for row, token in zip(live.tolist(), tokens.tolist(), strict=True):
            found[row].append(token)
        kept = compaction_indices(torch.tensor([not over(found[row]) for row in live.tolist()]))
        if step + 1 == most or not len(kept):
            return found
        if len(kept) < len(live):
            live, on_device = live[kept], kept.to(device)
            tokens, valid, lengths = tokens[on_device], valid[on_device], lengths[on_device]
            for layer in cache.layers:
                layer.batch_select_indices(kept)
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=valid[:, : longest + step + 1].long(),
            position_ids=(lengths + step)[:, None],
            past_key_values=cache,
        ).logits[:, -1]
    return found


def compaction_indices(going: Tensor) -> Tensor:
    """Places of the rows that go on: each where it was, but the last ones in the gaps, so that few rows move.

    >>> compaction_indices(torch.tensor([True, False, True, False, True])).tolist()
    [0, 4, 2]
    """
    size = int(going.sum())
    kept = torch.arange(size)
    kept[~going[:size]] = size + going[size:].nonzero()[:, 0]
    return kept


def prefill(model: Any, rows: Sequence[list[int]], columns: int) -> tuple[Cache, Tensor]:
    """A cache of `columns` columns that holds the rows, right-aligned, and the logits after each row, (b v).

    Equal rows are computed once; rows are computed together with those of about their length.
    """
    device, longest = next(model.parameters()).device, max(map(len, rows))
    rooms, logits = [], None
    for group in alike(sorted({tuple(row) for row in rows}, key=len)):
        width, place = len(group[-1]), {row: number for number, row in enumerate(group)}
        ids = torch.tensor([(0,) * (width - len(row)) + row for row in group], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in group], device=device)
        part = DynamicCache(config=model.config)
        after = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=part,
            logits_to_keep=1,
        ).logits[:, -1]
        pairs = [(number, place[tuple(row)]) for number, row in enumerate(rows) if tuple(row) in place]
        to, source = torch.tensor(pairs, device=device).T
        if logits is None:
            rooms = [Room(layer, len(rows), columns) for layer in part.layers]
            logits = after.new_empty(len(rows), after.shape[-1])
        logits[to] = after[source]
        for room, layer in zip(rooms, part.layers, strict=True):
            room.put(layer, to, source, longest)
    return Cache(layers=rooms), logits


def alike(rows: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Rows sorted by length, cut where one is a quarter and 8 tokens longer than the shortest of its group."""
    start = 0
    for end in count(1):
        if end >= len(rows) or len(rows[end]) > 1.25 * len(rows[start]) + 8:
            yield list(rows[start:end])
            start = end
        if end >= len(rows):
            return


class Room(DynamicLayer):
    """One layer's keys and values, (rows heads columns width), with room for the tokens to come.

    A step writes one column, where DynamicLayer would copy all of them.
    """

    def __init__(self, like: DynamicLayer, rows: int, columns: int):
        super().__init__()
        self.lazy_initialization(like.keys, like.values)
        self.stores = [part.new_zeros(rows, part.shape[1], columns, part.shape[3]) for part in (like.keys, like.values)]

    def put(self, part: DynamicLayer, to: Tensor, source: Tensor, filled: int) -> None:
        """Rows `source` of `part` become rows `to`, ending at column `filled`."""
        for store, states in zip(self.stores, (part.keys, part.values), strict=True):
            store[to, :, filled - states.shape[2] : filled] = states[source]
        self._show(len(self.stores[0]), filled)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Written behind what is there."""
        rows, filled = self.keys.shape[0], self.keys.shape[2]
        for store, states in zip(self.stores, (key_states, value_states), strict=True):
            store[:rows, :, filled : filled + states.shape[2]] = states
        self._show(rows, filled + key_states.shape[2])
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only rows that change their place are copied; `indices` come from `compaction_indices`."""
        moved = (indices != torch.arange(len(indices))).nonzero()[:, 0].tolist()
        filled = self.keys.shape[2]
        for store in self.stores:
            for place in moved:
                store[place, :, :filled] = store[int(indices[place]), :, :filled]
        self._show(len(indices), filled)

    def _show(self, rows: int, filled: int) -> None:
        self.keys, self.values = (store[:rows, :, :filled] for store in self.stores)
