"""Attention of all segments of a batch in one call of torch's flash kernel: on a GPU, in half precision."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from sparsepo.data.batches import Segment

GQA_OPTION = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""torch before 2.12 takes fewer key heads than query heads without an option."""


@dataclass(frozen=True)
class VarlenPlan:
    """Segments in the form that a kernel for sequences of any lengths takes.

    Segment i has the queries q_ends[i] .. q_ends[i + 1] and the keys k_ends[i] .. k_ends[i + 1]; max_q and max_k are
    the longest. key_rows (N',): the rows that make up all keys, those of prompts once for each response. own (N,): the
    place of each row among the keys of its own segment. Rows `shared` (m,) are at the places `copies` (m,) too.
    """

    q_ends: Tensor
    k_ends: Tensor
    max_q: int
    max_k: int
    key_rows: Tensor
    own: Tensor
    shared: Tensor
    copies: Tensor


@lru_cache(maxsize=4)
def plan_segments(segments: tuple[Segment, ...], device: torch.device) -> VarlenPlan:
    """Cached, as it is the same for every layer, and for policy and reference."""
    queries = [segment.end - segment.start for segment in segments]
    keys = [segment.end - segment.start + segment.prompt_end - segment.prompt_start for segment in segments]
    q_ends, k_ends = (torch.tensor([*accumulate(sizes, initial=0)], dtype=torch.int32) for sizes in (queries, keys))
    key_rows, own, shared, copies = [], [], [], []
    for segment, (first, last) in zip(segments, pairwise(k_ends.tolist()), strict=True):
        prompt = torch.arange(segment.prompt_start, segment.prompt_end)
        key_rows += [prompt, torch.arange(segment.start, segment.end)]
        own.append(torch.arange(first + len(prompt), last))
        shared.append(prompt)
        copies.append(torch.arange(first, first + len(prompt)))
    places = (torch.cat(parts).to(device) for parts in (key_rows, own, shared, copies))
    return VarlenPlan(q_ends.to(device), k_ends.to(device), max(queries), max(keys), *places)


class RepeatShared(torch.autograd.Function):
    """(N, ...) states and a plan -> (N', ...) keys or values, where rows of prompts stand once for each response.

    The gradients of the copies of a row are summed without atomic additions, which are slow in half precision: no row
    has more than two copies.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, plan: VarlenPlan) -> Tensor:
        ctx.plan = plan
        return states.index_select(0, plan.key_rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        plan = ctx.plan
        result = grad.index_select(0, plan.own)
        both = result.index_select(0, plan.shared) + grad.index_select(0, plan.copies)
        return result.index_copy_(0, plan.shared, both), None


@lru_cache(maxsize=1)
def _has_flash_hardware(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def has_flash(query: Tensor, value: Tensor) -> bool:
    """Whether torch's flash kernel takes these states."""
    fits = query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return fits and query.dtype in (torch.bfloat16, torch.float16) and _has_flash_hardware(query.device)


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[Segment],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """(1, N, h, d): the queries of a segment are the last of its keys, which is how the kernel aligns them."""
    plan = plan_segments(tuple(segments), query.device)
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    key, value = RepeatShared.apply(key, plan), RepeatShared.apply(value, plan)
    return varlen_attn(
        query,
        key,
        value,
        plan.q_ends,
        plan.k_ends,
        plan.max_q,
        plan.max_k,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **(GQA_OPTION if query.shape[1] != key.shape[1] else {}),
    )[None]
