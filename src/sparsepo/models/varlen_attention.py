"""Attention of all segments of a batch in one call, by torch's flash kernel: on a GPU, in half precision."""

import inspect
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""torch before 2.12 takes fewer key heads than query heads without being told."""


@dataclass(frozen=True)
class Plan:
    """Segments as what a kernel for sequences of any lengths takes: segment i has the queries q[i] .. q[i + 1] and the
    keys k[i] .. k[i + 1], most_q and most_k are the longest. Where segments share keys: `take` (N',) are the rows that
    make up all keys, `own` (N,) the place of each row among them, and rows `twice` (m,) stand there `again` (m,), too.
    """

    q: Tensor
    k: Tensor
    most_q: int
    most_k: int
    take: Tensor | None = None
    own: Tensor | None = None
    twice: Tensor | None = None
    again: Tensor | None = None


@lru_cache(maxsize=4)
def plan_of(segments: tuple[tuple[int, ...], ...], device: torch.device) -> Plan:
    """The same for every layer, and for policy and reference."""
    queries = [b - a for a, b, *_ in segments]
    keys = [b - a + end - start for a, b, start, end, _ in segments]
    q, k = (torch.tensor([*accumulate(sizes, initial=0)], dtype=torch.int32) for sizes in (queries, keys))
    plan = Plan(q.to(device), k.to(device), max(queries), max(keys))
    if queries == keys:
        return plan
    take, own, twice, again = [], [], [], []
    for (a, b, start, end, _), (first, last) in zip(segments, pairwise(k.tolist()), strict=True):
        middle = first + end - start
        take += [torch.arange(start, end), torch.arange(a, b)]
        own.append(torch.arange(middle, last))
        twice.append(torch.arange(start, end))
        again.append(torch.arange(first, middle))
    places = {"take": take, "own": own, "twice": twice, "again": again}
    return replace(plan, **{name: torch.cat(parts).to(device) for name, parts in places.items()})


class Repeat(torch.autograd.Function):
    """(N, ...) states and a plan -> (N', ...) with the rows that segments share once for each. The gradients of a row's
    copies add up without atomic additions, which are slow in half precision: no row has more than two."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return states.index_select(0, plan.take)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        plan = ctx.plan
        found = grad.index_select(0, plan.own)
        both = found.index_select(0, plan.twice) + grad.index_select(0, plan.again)
        return found.index_copy_(0, plan.twice, both), None


@lru_cache(maxsize=1)
def _flash_hardware(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def has_flash(query: Tensor, value: Tensor) -> bool:
    """Whether torch's flash kernel takes these states."""
    fits = query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return fits and query.dtype in (torch.bfloat16, torch.float16) and _flash_hardware(query.device)


def at_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: tuple[tuple[int, ...], ...],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """(1, N, h, d): the queries of a segment are the last of its keys, which is how the kernel aligns them."""
    plan = plan_of(segments, query.device)
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    if plan.take is not None:
        key, value = Repeat.apply(key, plan), Repeat.apply(value, plan)
    return varlen_attn(
        query,
        key,
        value,
        plan.q,
        plan.k,
        plan.most_q,
        plan.most_k,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **(GROUPED if query.shape[1] != key.shape[1] else {}),
    )[None]
