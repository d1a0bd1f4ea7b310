"""Which tokens of a batch see which, for batches without padding: attention per segment, by transformers' interface."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsepo.models.varlen_attention import at_once, has_flash

SEGMENTED = "sparsepo_segments"
CHANGES_SCORES = ("softcap", "s_aux", "position_bias")
"""Arguments by which an architecture asks for scores other than scaled products; SDPA knows none of them."""


class CannotSegment(Exception):
    """Why a model cannot attend per segment."""


def visibility(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """What `attention_mask` has to be: a padding mask (rows, T), an additive one (rows, 1, T, T), or segments.

    Segments travel as a small tensor on the CPU in the place of a mask, with a column that says whether attention is
    to be computed `again` in the backward pass instead of kept, because a model hands what has four dimensions
    to its attention function as it is, also when gradient checkpointing computes a block again.
    """
    if "segments" in batch:
        attend_to_segments(model)
        again = int(batch.get("again", False))
        return torch.tensor([(*segment, again) for segment in batch["segments"]])[None, None]
    if "parts" in batch:
        reach = min(look_back(model), chunk_of(model))
        if batch["parts"].shape[1] > reach:
            raise CannotSegment(f"its layers look back {reach} tokens, fewer than a row of {batch['parts'].shape[1]}")
        return _additive(batch["parts"], next(model.parameters()).dtype)
    return batch["attention_mask"]


def _additive(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, T) parts 0 prompt, 1 chosen, 2 rejected, 3 padding -> (b, 1, T, T): 0 where the query (row) sees the key.

    Additive, as models that attend eagerly take a boolean mask for numbers and go wrong in silence.
    """
    own, seen = parts[:, :, None], parts[:, None, :]
    ahead = torch.ones(parts.shape[1], parts.shape[1], dtype=torch.bool, device=parts.device).triu(1)
    hidden = ((seen != own) & (seen != 0)) | ahead
    return torch.zeros(hidden.shape, dtype=dtype, device=parts.device).masked_fill(hidden, torch.finfo(dtype).min)[
        :, None
    ]


def look_back(model: Any) -> float:
    """How many tokens the layers with a sliding window look back; a prepared mask would lift that limit."""
    found = (getattr(model.config, name, None) for name in ("sliding_window", "window_size"))  # GPT-Neo: window_size
    return next(filter(None, found), float("inf"))


def chunk_of(model: Any) -> float:
    """The length of the chunks that some architectures attend in."""
    return getattr(model.config, "attention_chunk_size", None) or float("inf")


def attend_to_segments(model: Any) -> None:
    """Let the model take segments in the place of a mask; with any other mask it attends as before, by SDPA.

    It stays so, as the backward pass of a checkpointed block attends again. Raises CannotSegment.
    """
    if model.config._attn_implementation == SEGMENTED:
        return
    if model.config._attn_implementation != "sdpa":
        raise CannotSegment(f"it attends by '{model.config._attn_implementation}', not by 'sdpa'")
    if not model._can_set_attn_implementation():
        raise CannotSegment("its attention is not open to transformers' attention interface")
    if chunk_of(model) < float("inf"):
        raise CannotSegment("it attends in chunks")
    model.set_attn_implementation(SEGMENTED)


def segmented(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query (1, h, N, d), key and value (1, k, N, d) -> (1, N, h, d), attending within segments.

    Segments follow each other without a gap. Of (start, end, seen_start, seen_end) the queries start .. end see
    the keys seen_start .. seen_end of an earlier segment, which come before theirs in position, and causally their own.
    """
    if attention_mask is None or attention_mask.dtype != torch.long:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **options
        )
    asked = [name for name in CHANGES_SCORES if options.get(name) is not None]
    if asked:
        raise CannotSegment(f"its attention asks for {asked[0]}, which SDPA does not know")
    segments = tuple(map(tuple, attention_mask[0, 0].tolist()))
    if query.is_cuda:
        query, key, value = (_as_autocast(states) for states in (query, key, value))
    attend = at_once if has_flash(query, value) else _by_segment
    settings = query, key, value, segments, scaling, sliding_window
    if any(again for *_, again in segments) and torch.is_grad_enabled():
        return checkpoint(attend, *settings, use_reentrant=False, preserve_rng_state=False), None
    return attend(*settings), None


def _as_autocast(states: Tensor) -> Tensor:
    """In the dtype to which autocast would take them for SDPA."""
    casts = torch.is_autocast_enabled("cuda") and states.dtype != torch.float64
    return states.to(torch.get_autocast_dtype("cuda")) if casts else states


def _by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[Sequence[int]],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """(1, N, h, d)."""
    dtype = query.dtype
    if _slower_than_float32(query):
        query, key, value = query.float(), key.float(), value.float()
    queries, keys, values = (_split(states, segments) for states in (query, key, value))
    made = []
    for place, (_, _, start, end, _) in enumerate(segments):
        k, v = keys[place], values[place]
        if start < end:
            source = next(at for at, (a, b, *_) in enumerate(segments) if a <= start and end <= b)
            seen = slice(start - segments[source][0], end - segments[source][0])
            k, v = torch.cat([keys[source][:, :, seen], k], 2), torch.cat([values[source][:, :, seen], v], 2)
        made.append(_attend(queries[place], k, v, scaling, window).transpose(1, 2))
    return torch.cat(made, 1).to(dtype)


def _slower_than_float32(states: Tensor) -> bool:
    """Whether SDPA is, as in half precision on an x86 without AMX. ARM, which was not tried, names no tiles."""
    if states.itemsize >= 4 or states.device.type != "cpu":
        return False
    return not torch.cpu.get_capabilities().get("amx_tile", True)


def _split(states: Tensor, segments: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """One view a segment; slices would each come back as a gradient of the whole length."""
    return states.split([end - start for start, end, *_ in segments], 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """Causal attention of queries that are the last of the keys."""
    length, total = query.shape[2], key.shape[2]
    groups = query.shape[1] // key.shape[1]
    windowed = window is not None and total > window
    if length == total and not windowed:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=length > 1, scale=scaling, enable_gqa=groups > 1
        )
    mask = torch.ones(length, total, dtype=torch.bool, device=query.device).tril(total - length)
    if windowed:
        mask = mask.triu(total - length - window + 1)
    if groups > 1 and query.device.type != "cpu":  # with a mask the fast kernels there want as many keys as queries
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        groups = 1
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=groups > 1)


def leave_attention_alone() -> None:
    """Keep a compiler of blocks from compiling this: the segments of each batch are numbers that it would build in."""
    AttentionInterface.register(SEGMENTED, torch.compiler.disable(segmented))


AttentionInterface.register(SEGMENTED, segmented)
AttentionMaskInterface.register(SEGMENTED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
