"""Token terms whose gradients are computed in closed form, so that logits exist for one chunk of rows at a time.

`RecomputeInBackward` drops the logits and computes them again in the backward pass: 6 matrix products, any loss.
`GradientsInForward` takes groups of whole pairs, asks for the loss's gradient with respect to their terms, and needs
their logits in the forward pass only: 4 matrix products, any loss that is a sum over pairs.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsepo.objective.kernels import HeadInputs, TermGrads, TermStats, compute_terms, logit_grads, split_evenly

VOCABULARY_CHUNK = 8192
"""Rows of the output matrix whose gradient is added at a time in half precision on a CPU."""
MIN_ROWS = 512
"""Rows whose logits a CPU computes together when gradients are computed in the forward pass: each group reads the
whole output matrix."""
GPU_LOGITS = 2**27
"""Logits of a model that a GPU computes together, 256 MB in half precision: each group reads the output matrix and
writes its gradient, which takes as long as the arithmetic of 300 rows."""


def rows_per_group(weight: Tensor) -> int:
    """Rows whose logits are computed together, for an output matrix (vocabulary, width)."""
    return max(1, GPU_LOGITS // len(weight)) if weight.is_cuda else MIN_ROWS


class HeadGradients:
    """Sums d loss / d hidden, weight and bias of the policy's head over chunks of rows, in float32 or float64."""

    def __init__(self, inputs: HeadInputs, needs_grad: tuple[bool, bool, bool]):
        self.states, self.head = inputs.hidden, inputs.head
        self.dtype = torch.promote_types(self.head.weight.dtype, torch.float32)
        self.needs_weight = needs_grad[1]
        self.hidden = torch.empty_like(self.states) if needs_grad[0] else None
        self.weight: Tensor | None = None
        bias = self.head.bias
        self.bias = torch.zeros_like(bias, dtype=self.dtype) if bias is not None and needs_grad[2] else None

    def add(self, dz: Tensor, rows: slice) -> None:
        """Add what d loss / d raw logits (k, vocabulary) of some rows contributes."""
        if self.hidden is not None:
            torch.mm(dz, self.head.weight, out=self.hidden[rows])
        if self.needs_weight:
            self._add_weight(dz, self.states[rows])
        if self.bias is not None:
            self.bias += dz.sum(0, dtype=self.bias.dtype)

    def _add_weight(self, dz: Tensor, hidden: Tensor) -> None:
        """Products in half precision are added in float32: in one call on a GPU, else by parts of the vocabulary,
        which needs no second copy of the whole matrix."""
        if dz.dtype != self.dtype:
            if self.weight is None:
                self.weight = torch.zeros_like(self.head.weight, dtype=self.dtype)
            if dz.is_cuda:
                torch.addmm(self.weight, dz.T, hidden, out_dtype=self.dtype, out=self.weight)
                return
            for tokens in split_evenly(dz.shape[1], VOCABULARY_CHUNK):
                self.weight[tokens] += dz[:, tokens].T @ hidden
        elif self.weight is None:
            self.weight = dz.T @ hidden
        else:
            self.weight.addmm_(dz.T, hidden)

    def result(self, factor: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, weight and bias in their dtypes, times `factor`; None where not needed."""
        if self.needs_weight and self.weight is None:
            self.weight = torch.zeros_like(self.head.weight)  # there were no rows
        inputs = (self.states, self.head.weight, self.head.bias)
        grads = zip((self.hidden, self.weight, self.bias), inputs, strict=True)
        return tuple(
            None if grad is None else (grad if factor is None else grad.mul_(factor)).to(tensor.dtype)
            for grad, tensor in grads
        )


class RecomputeInBackward(torch.autograd.Function):
    """(inputs, chunk, hidden, weight, bias) -> logps, ref_logps, reverse_kl, forward_kl; None where not needed."""

    @staticmethod
    def forward(ctx, inputs: HeadInputs, chunk: int, *trained: Tensor | None):
        ctx.set_materialize_grads(False)
        stats = inputs.empty_stats()
        for rows, raw, ref_raw in inputs.raw_logits(split_evenly(len(inputs.labels), chunk)):
            compute_terms(inputs, raw, ref_raw, inputs.labels[rows], stats.select(rows))
        ctx.inputs, ctx.chunk = inputs, chunk
        ctx.log_norm, ctx.ref_log_norm = stats.log_norm, stats.ref_log_norm
        ctx.save_for_backward(*(tensor for tensor in trained if tensor is not None))  # refuses in-place changes
        ctx.reverse_kl = None if stats.reverse_kl is None else stats.reverse_kl.clone()
        if stats.ref_logps is not None:
            ctx.mark_non_differentiable(stats.ref_logps)
        return stats.logps, stats.ref_logps, stats.reverse_kl, stats.forward_kl

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_logps, _, g_reverse, g_forward):
        ctx.saved_tensors  # noqa: B018 - raises where a weight has changed since the forward pass
        inputs, grads = ctx.inputs, TermGrads(g_logps, g_reverse, g_forward)
        stats = TermStats(None, None, ctx.reverse_kl, None, ctx.log_norm, ctx.ref_log_norm)
        head_grads = HeadGradients(inputs, ctx.needs_input_grad[2:])
        needs_reference = g_reverse is not None or g_forward is not None
        for rows, raw, ref_raw in inputs.raw_logits(split_evenly(len(inputs.labels), ctx.chunk), needs_reference):
            dz = logit_grads(inputs, raw, ref_raw, inputs.labels[rows], stats.select(rows), grads.select(rows))
            head_grads.add(dz, rows)
        return None, None, *head_grads.result()


GroupLoss = Callable[..., Tensor]
"""(rows, logps, ref_logps, reverse_kl, forward_kl, weights) -> the summed loss of the pairs in these rows, a scalar."""


class GradientsInForward(torch.autograd.Function):
    """(inputs, loss, groups, hidden, weight, bias, *weights) -> total loss, logps, ref_logps, reverse_kl, forward_kl.

    `groups`: slices of rows that hold whole pairs. Only the total has a gradient, with respect to hidden, weight, bias
    and the (n,) weights.
    """

    @staticmethod
    def forward(ctx, inputs: HeadInputs, loss: GroupLoss, groups: list[slice], *trained: Tensor | None):
        weights = trained[3:]
        stats, total = inputs.empty_stats(), 0.0
        head_grads = HeadGradients(inputs, ctx.needs_input_grad[3:6])
        ctx.weight_grads = [torch.zeros_like(weight) for weight in weights]
        for rows, raw, ref_raw in inputs.raw_logits(groups):
            labels, group = inputs.labels[rows], stats.select(rows)
            compute_terms(inputs, raw, ref_raw, labels, group)
            value, grads, weight_grads = _group_grads(loss, rows, group, [weight[rows] for weight in weights])
            for target, grad in zip(ctx.weight_grads, weight_grads, strict=True):
                if grad is not None:
                    target[rows] = grad
            needs_reference = grads.reverse_kl is not None or grads.forward_kl is not None
            dz = logit_grads(inputs, raw, ref_raw if needs_reference else None, labels, group, grads)
            head_grads.add(dz, rows)
            total = total + value
        ctx.head_grads = head_grads
        terms = (stats.logps, stats.ref_logps, stats.reverse_kl, stats.forward_kl)
        ctx.mark_non_differentiable(*(term for term in terms if term is not None))
        return total, *terms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_total, *_):
        head_grads, ctx.head_grads = ctx.head_grads, None
        return None, None, None, *head_grads.result(g_total), *(grad * g_total for grad in ctx.weight_grads)


def _group_grads(
    loss: GroupLoss, rows: slice, stats: TermStats, weights: list[Tensor]
) -> tuple[Tensor, TermGrads, list[Tensor]]:
    """The loss of a group, and its gradients with respect to terms and weights, by a graph of (k,) tensors."""
    with torch.enable_grad():
        terms = [
            None if term is None else term.detach().clone().requires_grad_()
            for term in (stats.logps, stats.reverse_kl, stats.forward_kl)
        ]
        leaves = [weight.detach().requires_grad_() for weight in weights]
        value = loss(rows, terms[0], stats.ref_logps, terms[1], terms[2], leaves)
    inputs = [tensor for tensor in (*terms, *leaves) if tensor is not None]
    grads = iter(torch.autograd.grad(value, inputs, allow_unused=True))
    term_grads = TermGrads(*(None if term is None else next(grads) for term in terms))
    return value.detach(), term_grads, list(grads)
