"""Per-token log-probs and KL of policy and reference, from their last hidden states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepo.objective.fused_head import GradientsInForward, RecomputeInBackward, rows_per_group
from sparsepo.objective.kernels import HeadInputs, row_entropy, split_evenly
from sparsepo.objective.lm_head import LMHead

KL_DIRECTIONS = ("reverse", "forward")
CPU_LOGITS = 2**23
"""Logits of a model that exist at a time when they are recomputed on a CPU: 32 MB in float32."""


@dataclass(frozen=True)
class TokenTerms:
    """What every loss is computed from, each (n,), float32 (float64 for float64 input), nats.

    reverse_kl is KL(policy || reference), forward_kl is KL(reference || policy), both over the whole vocabulary; None
    where not requested, as ref_logps is without a reference. total: the loss, where `token_terms` was given one.
    """

    logps: Tensor
    ref_logps: Tensor | None
    reverse_kl: Tensor | None
    forward_kl: Tensor | None
    total: Tensor | None = None


@dataclass(frozen=True)
class SummedLoss:
    """A loss that is a sum over groups of rows, whose gradient can be computed group by group in the forward pass.

    function: (rows, terms of these rows, weights of these rows) -> scalar.
    groups: slices of rows, together all of them, each with whole pairs; the logits of one group exist at a time.
    weights: (n,) tensors that the loss depends on and that need a gradient, the masks.
    """

    function: Callable[[slice, TokenTerms, Sequence[Tensor]], Tensor]
    groups: Sequence[slice]
    weights: Sequence[Tensor] = ()


def token_terms(
    hidden: Tensor,
    ref_hidden: Tensor | None,
    head: LMHead,
    ref_head: LMHead | None,
    labels: Tensor,
    *,
    kl: Sequence[str] = KL_DIRECTIONS,
    chunk: int | None = None,
    loss: SummedLoss | None = None,
) -> TokenTerms:
    r"""Terms of n response tokens.

        logps      = log softmax(z)[label]                 ref_logps = the same of the reference
        reverse_kl = sum_v p_v (log p_v - log q_v)         forward_kl = sum_v q_v (log q_v - log p_v)

    hidden: (n, d), ref_hidden: (n, d'): last hidden states that predict `labels` (n,). Gradients flow to `hidden`
    and `head`, never to the reference. ref_hidden and ref_head None: the policy alone. kl: the directions to compute,
    some of "reverse", "forward".

    Without `loss` at most `chunk` rows of logits of either model exist at a time (None: 8 million logits, on a GPU 134
    million): the backward pass recomputes them, so memory grows with n * (d + d'), not with n * vocabulary. With `loss`
    its gradients are computed in this call, a group of rows at a time, and nothing is computed twice; the terms then
    have no gradient, `total` has.

    Statistics are float32 over logits of the hidden states' dtype (float64 stays float64): with a softmax in bfloat16 a
    KL of 1e-3 is off by 920%. A token that both models ban (logit -inf) contributes nothing, never 0 * inf.

    Raises ValueError on mismatched shapes or vocabularies, or a KL without a reference.
    """
    _check_shapes(hidden, ref_hidden, head, ref_head, labels, kl)
    hidden, head = _as_autocast(hidden, head)
    if ref_hidden is not None:
        ref_hidden, ref_head = _as_autocast(ref_hidden.detach(), ref_head)
    inputs = HeadInputs(hidden, head, ref_hidden, ref_head, labels, tuple(kl))
    trained = hidden, head.weight, head.bias
    with torch.autocast(hidden.device.type, enabled=False):
        if loss is None:
            rows = _rows_per_chunk(head.weight) if chunk is None else chunk
            return TokenTerms(*RecomputeInBackward.apply(inputs, rows, *trained))

        def group_loss(rows: slice, *values: Tensor | Sequence[Tensor] | None) -> Tensor:
            return loss.function(rows, TokenTerms(*values[:-1]), values[-1])

        total, *terms = GradientsInForward.apply(inputs, group_loss, list(loss.groups), *trained, *loss.weights)
        return TokenTerms(*terms, total)


@torch.no_grad()
def token_entropy(hidden: Tensor, head: LMHead, *, chunk: int | None = None) -> Tensor:
    """(n,): entropy of the distribution over the vocabulary that each row of `hidden` (n, d) predicts, nats;
    without gradient.

    float32 (float64 for float64 input). At most `chunk` rows of logits exist at a time, as in `token_terms`.
    """
    hidden, head = _as_autocast(hidden, head)
    rows = _rows_per_chunk(head.weight) if chunk is None else chunk
    entropy = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
    chunks = split_evenly(len(hidden), rows)
    with torch.autocast(hidden.device.type, enabled=False):
        for part, raw in zip(chunks, head.raw_logits(hidden, chunks), strict=True):
            entropy[part] = row_entropy(raw, head.scale, head.softcap)
    return entropy


def _rows_per_chunk(weight: Tensor) -> int:
    return rows_per_group(weight) if weight.is_cuda else max(1, CPU_LOGITS // len(weight))


def _check_shapes(hidden, ref_hidden, head, ref_head, labels, kl) -> None:
    if (ref_hidden is None) != (ref_head is None) or (ref_hidden is None and kl):
        raise ValueError("give both ref_hidden and ref_head, or neither and kl=(): a KL needs the reference")
    if unknown := set(kl) - set(KL_DIRECTIONS):
        raise ValueError(f"kl may name {', '.join(KL_DIRECTIONS)}, not {', '.join(sorted(unknown))}")
    shapes = [tuple(tensor.shape) for tensor in (hidden, hidden if ref_hidden is None else ref_hidden, labels)]
    if [len(shape) for shape in shapes] != [2, 2, 1] or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"hidden (n, d), ref_hidden (n, d') and labels (n,) are expected, not {tuple(shapes)}")
    if ref_head is not None and head.weight.shape[0] != ref_head.weight.shape[0]:
        sizes = head.weight.shape[0], ref_head.weight.shape[0]
        raise ValueError(f"policy and reference have different vocabularies: {sizes[0]} and {sizes[1]} tokens")


def _as_autocast(hidden: Tensor, head: LMHead) -> tuple[Tensor, LMHead]:
    """In autocast's dtype where that is on, as a linear layer of the model would be."""
    if not torch.is_autocast_enabled(hidden.device.type):
        return hidden, head
    dtype = torch.get_autocast_dtype(hidden.device.type)
    return hidden.to(dtype), head.to(dtype)
