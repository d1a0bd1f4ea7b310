"""Decodes token by token on a batch that shrinks: finished rows cost nothing more, and no step copies the cache."""

import inspect
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer

from sparsepo.generation.sampler import DrawTokens, IsComplete


def is_plain(model: Any) -> bool:
    """Whether the next token needs only keys and values of all positions, a mask and position ids.

    It is not so for windows, recurrent states, positions made inside the model, or a model that prepares its own
    inputs.
    """
    parameters = set(inspect.signature(model.forward).parameters)
    prepare = getattr(type(model), "prepare_inputs_for_generation", None)
    return (
        {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"} <= parameters
        and prepare is GenerationMixin.prepare_inputs_for_generation
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    )


def decode(
    model: Any, prompts: Sequence[list[int]], draw: DrawTokens, is_complete: IsComplete, limit: int
) -> list[list[int]]:
    """The continuation of each prompt up to and with the token that completes it, at most `limit` tokens.

    When a row is complete, the last one takes its place and the batch is one row shorter.
    """
    device = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    valid = torch.arange(longest + limit, device=device) >= longest - lengths[:, None]
    cache, logits = prefill(model, prompts, longest + limit)
    responses: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))  # the prompt of each row of the batch
    for step in range(limit):
        tokens = draw(logits, rows, step)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            responses[row].append(token)
        kept = compaction_indices(torch.tensor([not is_complete(responses[row]) for row in rows.tolist()]))
        if step + 1 == limit or not len(kept):
            return responses
        if len(kept) < len(rows):
            rows, on_device = rows[kept], kept.to(device)
            tokens, valid, lengths = tokens[on_device], valid[on_device], lengths[on_device]
            for layer in cache.layers:
                layer.batch_select_indices(kept)
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=valid[:, : longest + step + 1].long(),
            position_ids=(lengths + step)[:, None],
            past_key_values=cache,
        ).logits[:, -1]
    return responses


def compaction_indices(unfinished: Tensor) -> Tensor:
    """The old index of each row that stays: rows keep their places, and the last ones fill the gaps, so few rows move.

    >>> compaction_indices(torch.tensor([True, False, True, False, True])).tolist()
    [0, 4, 2]
    """
    size = int(unfinished.sum())
    kept = torch.arange(size)
    kept[~unfinished[:size]] = size + unfinished[size:].nonzero()[:, 0]
    return kept


def prefill(model: Any, prompts: Sequence[list[int]], columns: int) -> tuple[Cache, Tensor]:
    """A cache of `columns` columns that holds the prompts, right-aligned, and the logits after each prompt, (b v).

    Equal prompts are computed once; prompts of similar length are computed together.
    """
    device, longest = next(model.parameters()).device, max(map(len, prompts))
    layers, logits = [], None
    for group in group_by_length(sorted({tuple(prompt) for prompt in prompts}, key=len)):
        width, row_of = len(group[-1]), {prompt: row for row, prompt in enumerate(group)}
        ids = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in group], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in group], device=device)
        group_cache = DynamicCache(config=model.config)
        group_logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=group_cache,
            logits_to_keep=1,
        ).logits[:, -1]
        pairs = [(row, row_of[tuple(prompt)]) for row, prompt in enumerate(prompts) if tuple(prompt) in row_of]
        target, source = torch.tensor(pairs, device=device).T
        if logits is None:
            layers = [PreallocatedLayer(layer, len(prompts), columns) for layer in group_cache.layers]
            logits = group_logits.new_empty(len(prompts), group_logits.shape[-1])
        logits[target] = group_logits[source]
        for layer, group_layer in zip(layers, group_cache.layers, strict=True):
            layer.fill(group_layer, target, source, longest)
    return Cache(layers=layers), logits


def group_by_length(prompts: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Groups of prompts sorted by length; none is longer than 1.25 times the shortest of its group plus 8 tokens."""
    start = 0
    for end in count(1):
        if end >= len(prompts) or len(prompts[end]) > 1.25 * len(prompts[start]) + 8:
            yield list(prompts[start:end])
            start = end
        if end >= len(prompts):
            return


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, (rows heads columns width), with space for the tokens to come.

    A step writes one column, where DynamicLayer would copy all of them.
    """

    def __init__(self, like: DynamicLayer, rows: int, columns: int):
        super().__init__()
        self.lazy_initialization(like.keys, like.values)
        self.stores = [part.new_zeros(rows, part.shape[1], columns, part.shape[3]) for part in (like.keys, like.values)]

    def fill(self, layer: DynamicLayer, target: Tensor, source: Tensor, filled: int) -> None:
        """Copy rows `source` of another layer into rows `target`, so that they end at column `filled`."""
        for store, states in zip(self.stores, (layer.keys, layer.values), strict=True):
            store[target, :, filled - states.shape[2] : filled] = states[source]
        self._set_views(len(self.stores[0]), filled)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns."""
        rows, filled = self.keys.shape[0], self.keys.shape[2]
        for store, states in zip(self.stores, (key_states, value_states), strict=True):
            store[:rows, :, filled : filled + states.shape[2]] = states
        self._set_views(rows, filled + key_states.shape[2])
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows; only rows that change their place are copied. `indices` are of `compaction_indices`."""
        moved = (indices != torch.arange(len(indices))).nonzero()[:, 0].tolist()
        filled = self.keys.shape[2]
        for store in self.stores:
            for row in moved:
                store[row, :, :filled] = store[int(indices[row]), :, :filled]
        self._set_views(len(indices), filled)

    def _set_views(self, rows: int, filled: int) -> None:
        self.keys, self.values = (store[:rows, :, :filled] for store in self.stores)
