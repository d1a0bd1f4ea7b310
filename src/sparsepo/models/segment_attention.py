"""Which tokens of a batch see each other: attention by segments, through transformers' attention interface."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsepo.data.batches import ModelInputs, Segment
from sparsepo.models.limits import text_config
from sparsepo.models.varlen_attention import attend_varlen, has_flash

SEGMENTED = "sparsepo_segments"
UNSUPPORTED_OPTIONS = ("softcap", "s_aux", "position_bias")
"""Arguments by which an architecture changes attention scores in ways that SDPA does not know."""


class UnsupportedLayout(Exception):
    """Why a model cannot compute a layout."""


def attention_argument(model: Any, inputs: ModelInputs, recompute: bool) -> Tensor:
    """The `attention_mask` of a forward pass: a padding mask (rows, T), an additive one (rows, 1, T, T), or segments.

    Segments are passed as a small CPU tensor in the place of a mask, with a column that says whether attention is
    recomputed in the backward pass: a model passes what has four dimensions unchanged to its attention function, also
    when gradient checkpointing computes a block again. Raises UnsupportedLayout.
    """
    if inputs.segments:
        enable_segment_attention(model)
        return torch.tensor([(*segment, int(recompute)) for segment in inputs.segments])[None, None]
    if inputs.parts is not None:
        check_row_length(model, inputs.parts.shape[1])
        return _additive_mask(inputs.parts, next(model.parameters()).dtype)
    return inputs.attention_mask


def _additive_mask(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, T) parts, see ModelInputs -> (b, 1, T, T): 0 where the query (row) sees the key, else the least number.

    Additive, as models that attend eagerly would add a boolean mask to the scores without an error.
    """
    query, key = parts[:, :, None], parts[:, None, :]
    later = torch.ones(parts.shape[1], parts.shape[1], dtype=torch.bool, device=parts.device).triu(1)
    hidden = ((key != query) & (key != 0)) | later
    mask = torch.zeros(hidden.shape, dtype=dtype, device=parts.device)
    return mask.masked_fill(hidden, torch.finfo(dtype).min)[:, None]


def check_row_length(model: Any, length: int) -> None:
    """Raises UnsupportedLayout for rows of the layout `pairs` that a window or chunk of the model's attention cuts.

    A prepared mask would disable that limit.
    """
    config = text_config(model)
    windows = (getattr(config, name, None) for name in ("sliding_window", "window_size"))  # GPT-Neo: window_size
    reach = min(next(filter(None, windows), float("inf")), _chunk_length(model))
    if length > reach:
        raise UnsupportedLayout(f"its layers attend to {reach} tokens, and prompt, chosen and rejected have {length}")


def _chunk_length(model: Any) -> float:
    return getattr(text_config(model), "attention_chunk_size", None) or float("inf")


def enable_segment_attention(model: Any) -> None:
    """Let the model take segments in the place of a mask; with any other mask it attends as before, by SDPA.

    It is not undone, as the backward pass of a checkpointed block attends again. Raises UnsupportedLayout.
    """
    attention = text_config(model)._attn_implementation
    if attention == SEGMENTED:
        return
    if attention != "sdpa":
        raise UnsupportedLayout(f"it attends by '{attention}', not by 'sdpa'")
    if not model._can_set_attn_implementation():
        raise UnsupportedLayout("it does not use transformers' attention interface")
    if _chunk_length(model) < float("inf"):
        raise UnsupportedLayout("it attends in chunks")
    model.set_attn_implementation(SEGMENTED)


def segment_attention(
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

    The segments in `attention_mask` follow each other without a gap; see `attention_argument`.
    """
    if attention_mask is None or attention_mask.dtype != torch.long:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **options
        )
    unsupported = [name for name in UNSUPPORTED_OPTIONS if options.get(name) is not None]
    if unsupported:
        raise UnsupportedLayout(f"its attention uses {unsupported[0]}, which SDPA does not know")
    *places, recompute = attention_mask[0, 0].T.tolist()
    segments = [Segment(*row) for row in zip(*places, strict=True)]
    if query.is_cuda:
        query, key, value = (_as_autocast(states) for states in (query, key, value))
    attend = attend_varlen if has_flash(query, value) else _attend_by_segment
    arguments = query, key, value, segments, scaling, sliding_window
    if any(recompute) and torch.is_grad_enabled():
        return checkpoint(attend, *arguments, use_reentrant=False, preserve_rng_state=False), None
    return attend(*arguments), None


def _as_autocast(states: Tensor) -> Tensor:
    """In the dtype to which autocast would cast them for SDPA."""
    casts = torch.is_autocast_enabled("cuda") and states.dtype != torch.float64
    return states.to(torch.get_autocast_dtype("cuda")) if casts else states


def _attend_by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[Segment],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """(1, N, h, d)."""
    dtype = query.dtype
    if _is_slower_than_float32(query):
        query, key, value = query.float(), key.float(), value.float()
    queries, keys, values = (_split_segments(states, segments) for states in (query, key, value))
    outputs = []
    for number, segment in enumerate(segments):
        k, v = keys[number], values[number]
        if segment.prompt_start < segment.prompt_end:
            source = next(
                at
                for at, other in enumerate(segments)
                if other.start <= segment.prompt_start and segment.prompt_end <= other.end
            )
            prompt = slice(segment.prompt_start - segments[source].start, segment.prompt_end - segments[source].start)
            k, v = torch.cat([keys[source][:, :, prompt], k], 2), torch.cat([values[source][:, :, prompt], v], 2)
        outputs.append(_attend_causally(queries[number], k, v, scaling, window).transpose(1, 2))
    return torch.cat(outputs, 1).to(dtype)


def _is_slower_than_float32(states: Tensor) -> bool:
    """Whether SDPA is, as in half precision on an x86 without AMX. ARM, which was not measured, has no such entry."""
    if states.itemsize >= 4 or states.device.type != "cpu":
        return False
    return not torch.cpu.get_capabilities().get("amx_tile", True)


def _split_segments(states: Tensor, segments: Sequence[Segment]) -> tuple[Tensor, ...]:
    """One view for each segment; the gradient of a slice would have the whole length."""
    return states.split([segment.end - segment.start for segment in segments], 2)


def _attend_causally(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
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
    if groups > 1 and query.device.type != "cpu":  # with a mask the fast kernels there need as many keys as queries
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        groups = 1
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=groups > 1)


def exclude_attention_from_compilation() -> None:
    """Keep the compiler of blocks from compiling attention: it would build the segments of each batch into the code."""
    AttentionInterface.register(SEGMENTED, torch.compiler.disable(segment_attention))


AttentionInterface.register(SEGMENTED, segment_attention)
AttentionMaskInterface.register(SEGMENTED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
