"""Token terms with gradients in closed form, so that logits live for one chunk only. Two ways lead to the gradients.

`Recompute` throws the logits away and makes them again in the backward pass: 6 matrix products, any loss. `InForward`
handles whole pairs at once, asks for the loss's gradient with respect to the terms of these rows, and is done with
their logits in the forward pass: 4 matrix products, any loss that is a sum over pairs.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsepo.objective.kernels import HeadInputs, OutputMap, Stats, TermGrads, even, logit_grads, measure

TOKENS = 8192
"""Rows of the weights whose gradient is added at a time in half precision."""
LEAST = 512
"""Rows whose logits are handled together when gradients are computed in the forward pass: fewer stream the weights."""
ON_GPU = 2**27
"""Logits of a model that a GPU handles together, 256 MB in half precision: each part of them streams the weights and
their gradient, which takes as long as the arithmetic of 300 rows."""


def rows_together(weight: Tensor) -> int:
    """LEAST, or what suits a GPU, for an output map (V, d)."""
    return max(1, ON_GPU // len(weight)) if weight.is_cuda else LEAST


class Gradients:
    """Where d loss / d hidden, weight and bias of the policy add up, in float32 or better."""

    def __init__(self, side: OutputMap, wants: tuple[bool, bool, bool]):
        self.side = side
        self.more = torch.promote_types(side.weight.dtype, torch.float32)
        self.wants_weight = wants[1]
        self.hidden = torch.empty_like(side.hidden) if wants[0] else None
        self.weight: Tensor | None = None
        self.bias = torch.zeros_like(side.bias, dtype=self.more) if side.bias is not None and wants[2] else None

    def add(self, dz: Tensor, at: slice) -> None:
        if self.hidden is not None:
            torch.mm(dz, self.side.weight, out=self.hidden[at])
        if self.wants_weight:
            self._add_weight(dz, self.side.hidden[at])
        if self.bias is not None:
            self.bias += dz.sum(0, dtype=self.bias.dtype)

    def _add_weight(self, dz: Tensor, hidden: Tensor) -> None:
        """A product in half precision is added to float32: in one pass on a GPU, else some tokens of the vocabulary at
        a time, which needs no copy of the whole."""
        if dz.dtype != self.more:
            if self.weight is None:
                self.weight = torch.zeros_like(self.side.weight, dtype=self.more)
            if dz.is_cuda:
                torch.addmm(self.weight, dz.T, hidden, out_dtype=self.more, out=self.weight)
                return
            for tokens in even(dz.shape[1], TOKENS):
                self.weight[tokens] += dz[:, tokens].T @ hidden
        elif self.weight is None:
            self.weight = dz.T @ hidden
        else:
            self.weight.addmm_(dz.T, hidden)

    def result(self, factor: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """In the dtypes of hidden, weight and bias; times `factor`."""
        if self.wants_weight and self.weight is None:
            self.weight = torch.zeros_like(self.side.weight)  # no rows at all
        like = (self.side.hidden, self.side.weight, self.side.bias)
        found = zip((self.hidden, self.weight, self.bias), like, strict=True)
        return tuple(
            None if grad is None else (grad if factor is None else grad.mul_(factor)).to(of.dtype) for grad, of in found
        )


class Recompute(torch.autograd.Function):
    """(problem, chunk, hidden, weight, bias) -> logps, ref_logps, reverse, forward; None where not wanted."""

    @staticmethod
    def forward(ctx, problem: HeadInputs, chunk: int, *trained: Tensor | None):
        ctx.set_materialize_grads(False)
        stats = problem.stats(len(problem.labels))
        for at, raw, ref_raw in problem.raw(even(len(problem.labels), chunk)):
            measure(problem, raw, ref_raw, problem.labels[at], stats.at(at))
        ctx.problem, ctx.chunk = problem, chunk
        ctx.norm, ctx.ref_norm = stats.norm, stats.ref_norm
        ctx.save_for_backward(*(tensor for tensor in trained if tensor is not None))  # in-place changes are refused
        ctx.reverse = None if stats.reverse is None else stats.reverse.clone()
        if stats.ref_logps is not None:
            ctx.mark_non_differentiable(stats.ref_logps)
        return stats.logps, stats.ref_logps, stats.reverse, stats.forward

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_logps, _, g_reverse, g_forward):
        ctx.saved_tensors  # noqa: B018 - raises where a weight has changed since the forward pass
        problem, slopes = ctx.problem, TermGrads(g_logps, g_reverse, g_forward)
        stats = Stats(None, None, ctx.reverse, None, ctx.norm, ctx.ref_norm)
        grads = Gradients(problem.policy, ctx.needs_input_grad[2:])
        looks_back = g_reverse is not None or g_forward is not None
        for at, raw, ref_raw in problem.raw(even(len(problem.labels), ctx.chunk), looks_back):
            grads.add(logit_grads(problem, raw, ref_raw, problem.labels[at], stats.at(at), slopes.at(at)), at)
        return None, None, *grads.result()


Score = Callable[..., Tensor]
"""(rows, logps, ref_logps, reverse, forward, weights) -> the loss of the pairs in these rows, summed; a scalar."""


class InForward(torch.autograd.Function):
    """(problem, score, groups, hidden, weight, bias, *weights) -> total loss, logps, ref_logps, reverse, forward.

    `groups`: slices of rows that hold whole pairs. Only the total carries a gradient, to hidden, weight, bias and the
    (n,) weights.
    """

    @staticmethod
    def forward(ctx, problem: HeadInputs, score: Score, groups: list[slice], *trained: Tensor | None):
        weights = trained[3:]
        stats, total = problem.stats(len(problem.labels)), 0.0
        grads = Gradients(problem.policy, ctx.needs_input_grad[3:6])
        ctx.weights = [torch.zeros_like(weight) for weight in weights]
        for at, raw, ref_raw in problem.raw(groups):
            labels, here = problem.labels[at], stats.at(at)
            measure(problem, raw, ref_raw, labels, here)
            loss, slopes, on_weights = _slopes_of(score, at, here, [weight[at] for weight in weights])
            for target, value in zip(ctx.weights, on_weights, strict=True):
                if value is not None:
                    target[at] = value
            needs_q = slopes.reverse is not None or slopes.forward is not None
            grads.add(logit_grads(problem, raw, ref_raw if needs_q else None, labels, here, slopes), at)
            total = total + loss
        ctx.grads = grads
        terms = (stats.logps, stats.ref_logps, stats.reverse, stats.forward)
        ctx.mark_non_differentiable(*(term for term in terms if term is not None))
        return total, *terms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_total, *_):
        grads, ctx.grads = ctx.grads, None
        return None, None, None, *grads.result(g_total), *(grad * g_total for grad in ctx.weights)


def _slopes_of(score: Score, at: slice, stats: Stats, weights: list[Tensor]) -> tuple[Tensor, TermGrads, list[Tensor]]:
    """The loss of these rows, and its gradients with respect to their terms and weights: a graph of (k,) vectors."""
    with torch.enable_grad():
        terms = [
            None if term is None else term.detach().clone().requires_grad_()
            for term in (stats.logps, stats.reverse, stats.forward)
        ]
        own = [weight.detach().requires_grad_() for weight in weights]
        loss = score(at, terms[0], stats.ref_logps, terms[1], terms[2], own)
    inputs = [tensor for tensor in (*terms, *own) if tensor is not None]
    found = iter(torch.autograd.grad(loss, inputs, allow_unused=True))
    slopes = TermGrads(*(None if term is None else next(found) for term in terms))
    return loss.detach(), slopes, list(found)
