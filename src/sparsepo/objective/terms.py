"""Per-token log-probs and KL of policy and reference, computed from hidden states in chunks of rows."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """The last map of a causal LM: z = scale * (h W^T + bias), then cap * tanh(z / cap) where `softcap` is given.

    weight: (vocabulary, width); bias: (vocabulary,) or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary), float32 or float64: exactly what `token_terms` computes with."""
        return _logits(hidden, self.weight, self.bias, _shape_of(self))


@dataclass(frozen=True)
class TokenTerms:
    """What every loss is a sentence about; each (n,), float32 (float64 for float64 input), nats.

    reverse_kl is KL(policy || reference), forward_kl is KL(reference || policy), both over the whole vocabulary.
    """

    logps: Tensor
    ref_logps: Tensor
    reverse_kl: Tensor
    forward_kl: Tensor


@dataclass(frozen=True)
class Rows:
    """Where the response tokens of a batch of sequences live: the only place of the label shift.

    index:  (n,) row of the flattened (s * T) hidden states that predicts each response token
    target: (n,) where the token itself stands in the flattened (s * T) ids
    slot:   (n,) its place in the flattened (s * r) grid, r = longest response
    valid:  (s, r) True where the grid holds a token
    """

    index: Tensor
    target: Tensor
    slot: Tensor
    valid: Tensor

    def take(self, hidden: Tensor) -> Tensor:
        """(s, T, d) -> (n, d), or (s, T) -> (n,): values at the positions that predict response tokens."""
        return hidden.flatten(0, 1).index_select(0, self.index)

    def labels(self, input_ids: Tensor) -> Tensor:
        """(s, T) ids -> (n,) response tokens."""
        return input_ids.flatten().index_select(0, self.target)

    def grid(self, values: Tensor) -> Tensor:
        """(n, ...) -> (s, r, ...), zero where `valid` is False; differentiable."""
        s, r = self.valid.shape
        empty = values.new_zeros((s * r, *values.shape[1:]))
        return empty.index_copy(0, self.slot, values).unflatten(0, (s, r))


def response_rows(response_mask: Tensor) -> Rows:
    """Rows of a (s, T) boolean mask of response tokens. The state at position t - 1 speaks about token t.

    Raises ValueError when a sequence has no response token, or begins with one (nothing predicts it).
    """
    if response_mask.dtype != torch.bool or response_mask.ndim != 2:
        raise ValueError(f"a (sequences, positions) boolean mask is expected, not {response_mask.dtype}")
    lengths = response_mask.sum(1)
    if (lengths == 0).any() or response_mask[:, 0].any():
        raise ValueError("each sequence needs a prompt token before its response and at least one response token")
    target = response_mask.flatten().nonzero()[:, 0]
    sequence = target // response_mask.shape[1]
    order = response_mask.cumsum(1).flatten().index_select(0, target) - 1
    longest = int(lengths.max())
    valid = torch.arange(longest, device=lengths.device) < lengths[:, None]
    return Rows(target - 1, target, sequence * longest + order, valid)


def token_terms(
    hidden: Tensor, ref_hidden: Tensor, head: Head, ref_head: Head, labels: Tensor, *, chunk: int = 256
) -> TokenTerms:
    r"""Terms of n response tokens.

        logps      = log softmax(z)[label]                 ref_logps = the same of the reference
        reverse_kl = sum_v p_v (log p_v - log q_v)         forward_kl = sum_v q_v (log q_v - log p_v)

    hidden: (n, d), ref_hidden: (n, d'): last hidden states that predict `labels` (n,). Gradients flow to `hidden`
    and `head`, never to the reference. At most `chunk` rows of logits of either model exist at a time: the backward
    pass recomputes them, so memory grows with n * (d + d'), not with n * vocabulary. Statistics are float32 over
    logits of the hidden states' dtype (float64 stays float64): a softmax in bfloat16 puts a KL of 1e-3 off by 920%.
    A token that both models ban (logit -inf) contributes nothing, and no 0 * inf.

    Raises ValueError on mismatched shapes or vocabularies.
    """
    if hidden.ndim != 2 or ref_hidden.ndim != 2 or labels.shape != hidden.shape[:1] or len(ref_hidden) != len(hidden):
        shapes = tuple(hidden.shape), tuple(ref_hidden.shape), tuple(labels.shape)
        raise ValueError(f"hidden (n, d), ref_hidden (n, d') and labels (n,) are expected, not {shapes}")
    if head.weight.shape[0] != ref_head.weight.shape[0]:
        sizes = head.weight.shape[0], ref_head.weight.shape[0]
        raise ValueError(f"policy and reference have different vocabularies: {sizes[0]} and {sizes[1]} tokens")
    tensors = [hidden, head.weight, head.bias, ref_hidden, ref_head.weight, ref_head.bias]
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        tensors = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
    with torch.autocast(hidden.device.type, enabled=False):
        values = _Terms.apply(*tensors, labels, _shape_of(head), _shape_of(ref_head), chunk)
    return TokenTerms(*values)


def _shape_of(head: Head) -> tuple[float, float | None]:
    return head.scale, head.softcap


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, shape: tuple[float, float | None]) -> Tensor:
    scale, softcap = shape
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if scale != 1.0:
        logits = logits * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _log_probs(logits: Tensor, log_norm: Tensor) -> Tensor:
    """logits - log_norm in place; a banned token (-inf) becomes the least finite number, so that 0 * log 0 is 0."""
    return logits.sub_(log_norm).clamp_(min=torch.finfo(logits.dtype).min / 4)


class _Terms(torch.autograd.Function):
    """One pass over both vocabularies; logits live for one chunk, forward and again backward.

    With p, q the two distributions, d logp/dz = onehot - p, d reverse/dz = p (log p - log q - reverse),
    d forward/dz = p - q. Everything (chunk x vocabulary) is reused in place: memory traffic is what it costs.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, ref_hidden, ref_weight, ref_bias, labels, shape, ref_shape, chunk):
        ctx.set_materialize_grads(False)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        norm, ref_norm, logps, ref_logps, reverse, forward = (
            hidden.new_empty(len(hidden), dtype=dtype) for _ in range(6)
        )
        for start in range(0, len(hidden), chunk):
            at = slice(start, start + chunk)
            log_p = _logits(hidden[at], weight, bias, shape)
            log_q = _logits(ref_hidden[at], ref_weight, ref_bias, ref_shape)
            norm[at], ref_norm[at] = log_p.logsumexp(-1), log_q.logsumexp(-1)
            log_p, log_q = _log_probs(log_p, norm[at, None]), _log_probs(log_q, ref_norm[at, None])
            logps[at] = log_p.gather(1, labels[at, None])[:, 0]
            ref_logps[at] = log_q.gather(1, labels[at, None])[:, 0]
            gap = log_p - log_q
            reverse[at] = torch.linalg.vecdot(log_p.exp_(), gap).clamp_(min=0.0)
            forward[at] = torch.linalg.vecdot(log_q.exp_(), gap).neg_().clamp_(min=0.0)
        ctx.save_for_backward(
            hidden, weight, bias, ref_hidden, ref_weight, ref_bias, labels, norm, ref_norm, reverse.clone()
        )
        ctx.shape, ctx.ref_shape, ctx.chunk = shape, ref_shape, chunk
        ctx.mark_non_differentiable(ref_logps)
        return logps, ref_logps, reverse, forward

    @staticmethod
    def backward(ctx, g_logp, _, g_reverse, g_forward):
        hidden, weight, bias, ref_hidden, ref_weight, ref_bias, labels, norm, ref_norm, reverse = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        accumulate = torch.promote_types(weight.dtype, torch.float32)
        d_hidden = torch.zeros_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight, dtype=accumulate) if wants_weight else None
        d_bias = torch.zeros_like(bias, dtype=accumulate) if wants_bias else None
        zero = torch.zeros_like(norm)
        g_p = (zero if g_forward is None else g_forward) - (zero if g_logp is None else g_logp)
        for start in range(0, len(hidden), ctx.chunk):
            at = slice(start, start + ctx.chunk)
            logits = _logits(hidden[at], weight, bias, ctx.shape)
            slope = None if ctx.shape[1] is None else 1 - (logits / ctx.shape[1]) ** 2
            log_p = _log_probs(logits, norm[at, None])
            if g_reverse is not None or g_forward is not None:
                ref_logits = _logits(ref_hidden[at], ref_weight, ref_bias, ctx.ref_shape)
                log_q = _log_probs(ref_logits, ref_norm[at, None])
            if g_reverse is not None:
                gap = (log_p - log_q).sub_(reverse[at, None]).mul_(g_reverse[at, None]).add_(g_p[at, None])
                dz = log_p.exp_().mul_(gap)
            else:
                dz = log_p.exp_().mul_(g_p[at, None])
            if g_forward is not None:
                dz.sub_(log_q.exp_().mul_(g_forward[at, None]))
            if g_logp is not None:
                dz.scatter_add_(1, labels[at, None], g_logp[at, None])
            if slope is not None:
                dz.mul_(slope)
            dz = (dz if ctx.shape[0] == 1.0 else dz.mul_(ctx.shape[0])).to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(dz, weight, out=d_hidden[at])
            if d_weight is not None:
                if dz.dtype == d_weight.dtype:
                    d_weight.addmm_(dz.T, hidden[at])
                else:
                    d_weight += dz.T @ hidden[at]
            if d_bias is not None:
                d_bias += dz.sum(0)
        grads, inputs = [d_hidden, d_weight, d_bias], [hidden, weight, bias]
        cast = [None if g is None else g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)]
        return (*cast, None, None, None, None, None, None, None)
