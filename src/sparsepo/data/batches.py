"""Batches: what goes through a model at once, as tensors that move to a device together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from sparsepo.objective.response_index import ResponseIndex
from sparsepo.objective.response_terms import Side
from sparsepo.objective.token_terms import TokenTerms


class Segment(NamedTuple):
    """Tokens start .. end of a row without padding: each sees those before it in the segment, and the shared prompt
    prompt_start .. prompt_end of an earlier segment (empty where the two are equal)."""

    start: int
    end: int
    prompt_start: int
    prompt_end: int


@dataclass(frozen=True)
class ModelInputs:
    """Token ids as a model reads them. One of the last three says which tokens see each other.

    input_ids, position_ids: (rows, T). attention_mask: (rows, T), 1 on tokens, 0 on padding; causal. segments: of a
    single row. parts: (rows, T), 0 on the prompt, 1 on the chosen and 2 on the rejected response, 3 on padding; tokens
    see those before them in the same part and in the prompt.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None = None
    segments: tuple[Segment, ...] = ()
    parts: Tensor | None = None

    @classmethod
    def with_padding(cls, input_ids: Tensor, attention_mask: Tensor) -> "ModelInputs":
        """Padded sequences; positions count tokens only, so that padding on either side never moves one."""
        return cls(input_ids, (attention_mask.cumsum(-1) - 1).clamp_min(0), attention_mask=attention_mask)

    @property
    def num_sequences(self) -> Tensor:
        """(rows, T): of how many sequences a token is part, 2 for a prompt that two responses share, 0 for padding."""
        if self.attention_mask is not None:
            return self.attention_mask
        if self.parts is not None:
            return torch.tensor([2, 1, 1, 0], device=self.parts.device)[self.parts]
        count = torch.ones_like(self.input_ids)
        for segment in self.segments:
            count[:, segment.prompt_start : segment.prompt_end] += 1
        return count


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Base of what goes through a model at once.

    num_tokens: tokens of prompts and responses, for the speed that is logged. weight: 1, or 0 for a batch that is
    computed on this process only because another one has more batches.
    """

    num_tokens: int
    weight: int = 1

    def to(self, device: Any, non_blocking: bool = False) -> Self:
        """With all tensors on a device."""
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """With all tensors in pinned memory, as torch's data loader asks for."""
        return _map_tensors(self, Tensor.pin_memory)


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if is_dataclass(value):
        return replace(value, **{name: _map_tensors(part, function) for name, part in vars(value).items()})
    return value


@dataclass(frozen=True, kw_only=True)
class ResponseBatch(Batch):
    """Responses to prompts."""

    inputs: ModelInputs
    responses: ResponseIndex

    @property
    def labels(self) -> Tensor:
        """(n,) the response tokens."""
        return self.responses.select_labels(self.inputs.input_ids)


@dataclass(frozen=True, kw_only=True)
class PairBatch(ResponseBatch):
    """b preference pairs with n response tokens.

    responses: 2b of them; in the grid the chosen ones come first, the (n,) tensors are in the order chosen, rejected of
    each pair. pair_ends: where each pair ends in the (n,) tensors. pair_indices: of the pairs in the data.
    values: (n,) and scores: (2b,), where all pairs have them.
    ref_states: (n, d), ref_logps: (n,), ref_weights: (n,): stored outputs of the reference, see
    `training.reference_cache`.
    loss_kwargs, pair_weights (b,): keywords of the loss and factors on the loss of each pair that were computed from
    the whole step, see `training.step_statistics`. mask_means: the same of the masks that are normalised, `m_u` and
    `m_d` -> mean weight of a response token.
    """

    pair_ends: tuple[int, ...]
    pair_indices: tuple[int, ...] = ()
    values: Tensor | None = None
    scores: Tensor | None = None
    ref_states: Tensor | None = None
    ref_logps: Tensor | None = None
    ref_weights: Tensor | None = None
    loss_kwargs: Mapping[str, Any] = field(default_factory=dict)
    pair_weights: Tensor | None = None
    mask_means: Mapping[str, Tensor | float] | None = None

    @property
    def num_pairs(self) -> int:
        return len(self.responses.valid) // 2

    @property
    def has_reference(self) -> bool:
        """Whether stored outputs of the reference are in the batch."""
        return any(value is not None for value in (self.ref_states, self.ref_logps, self.ref_weights))

    def to_grid(self, values: Tensor | None) -> Tensor | None:
        """(n, ...) -> (2b, t, ...), None for None."""
        return None if values is None else self.responses.to_grid(values)

    def sides(self, terms: TokenTerms, weights: Mapping[str, Tensor]) -> tuple[Side, Side]:
        """The chosen and the rejected responses token by token; weights: the grids `m_u` and `m_d`, if any."""
        by_token = {
            "logps": terms.logps,
            "ref_logps": terms.ref_logps if self.ref_logps is None else self.ref_logps,
            "reverse_kl": terms.reverse_kl,
            "forward_kl": terms.forward_kl,
            "values": self.values,
        }
        grids = {name: self.to_grid(value) for name, value in by_token.items()} | dict(weights)
        grids |= {"valid": self.responses.valid, "score": self.scores}
        chosen, rejected = (
            Side(**{name: None if grid is None else grid[half] for name, grid in grids.items()})
            for half in (slice(self.num_pairs), slice(self.num_pairs, None))
        )
        return chosen, rejected

    def select(self, rows: slice, pairs: range) -> "PairBatch":
        """What a loss reads of some pairs, whose response tokens are `rows`; the inputs of the model stay whole."""
        both = torch.tensor([*pairs, *(self.num_pairs + pair for pair in pairs)], device=self.responses.cell.device)
        index = {"values": rows, "ref_logps": rows, "scores": both, "pair_weights": slice(pairs.start, pairs.stop)}
        parts = {name: getattr(self, name)[at] for name, at in index.items() if getattr(self, name) is not None}
        return replace(self, responses=self.responses.select(rows, both), **parts)
