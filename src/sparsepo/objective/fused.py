"""Token terms and their gradients in closed form, so that logits live for one chunk only.

With p, q the distributions of policy and reference and z the policy's logits:

    d logp / dz = onehot - p      d KL(p||q) / dz = p (log p - log q - KL(p||q))      d KL(q||p) / dz = p - q

Two ways lead to the gradients. `Recompute` throws the logits away and makes them again in the backward pass: 6 matrix
products, any loss. `InForward` handles whole pairs at once, asks for the loss's gradient with respect to the terms of
these rows, and is done with their logits in the forward pass: 4 matrix products, any loss that is a sum over pairs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED = 2**18
"""Logits that elementwise passes on a CPU handle at a time: 1 MB in float32, so that they stay in the cache."""


@dataclass(frozen=True)
class Side:
    """A model's states and output map: hidden (n, d), weight (V, d), bias (V,) or None, and what follows the map."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    def raw(self, at: slice) -> Tensor:
        """(k, V) what the linear map gives for these rows."""
        return F.linear(self.hidden[at], self.weight, self.bias)

    def finish(self, raw: Tensor) -> Tensor:
        """Scaled and capped logits, float32 or float64, never below a quarter of the least finite number: a banned
        token (-inf) then has probability 0 and a finite log, so that 0 * log 0 is 0."""
        logits = raw.to(torch.promote_types(raw.dtype, torch.float32), copy=True)
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits.clamp_(min=torch.finfo(logits.dtype).min / 4)


@dataclass(frozen=True)
class Problem:
    """What both ways compute on. `reference` None: the policy alone. `kl`: which directions are wanted."""

    policy: Side
    reference: Side | None
    labels: Tensor
    kl: tuple[str, ...]

    def stats(self, size: int) -> "Stats":
        dtype = torch.promote_types(self.policy.hidden.dtype, torch.float32)
        new = lambda wanted: self.policy.hidden.new_empty(size, dtype=dtype) if wanted else None  # noqa: E731
        both = self.reference is not None
        return Stats(new(True), new(both), new("reverse" in self.kl), new("forward" in self.kl), new(True), new(both))


@dataclass(frozen=True)
class Stats:
    """(n,) each: the terms, and the log normalisers of both models; None where not wanted."""

    logps: Tensor
    ref_logps: Tensor | None
    reverse: Tensor | None
    forward: Tensor | None
    norm: Tensor
    ref_norm: Tensor | None

    def at(self, rows: slice) -> "Stats":
        """The same of some rows (views)."""
        return Stats(*(None if value is None else value[rows] for value in vars(self).values()))


@dataclass(frozen=True)
class Slopes:
    """(n,) each: d loss / d term; None where the loss does not depend on it."""

    logps: Tensor | None
    reverse: Tensor | None
    forward: Tensor | None

    def at(self, rows: slice) -> "Slopes":
        return Slopes(*(None if value is None else value[rows] for value in vars(self).values()))


def even(size: int, most: int) -> Iterator[slice]:
    """Slices of at most `most` rows, as equal as can be: a last chunk of three rows would stream the weights too."""
    count = -(-size // most)
    ends = [size * place // count for place in range(count + 1)] if size else []
    yield from map(slice, ends[:-1], ends[1:])


def blocks(raw: Tensor) -> Iterator[slice]:
    """Rows to handle at a time in elementwise passes: what the cache holds on a CPU, all of them elsewhere."""
    most = max(1, CACHED // raw.shape[1]) if raw.device.type == "cpu" else len(raw)
    return even(len(raw), max(most, 1))


def measure(problem: Problem, raw: Tensor, ref_raw: Tensor | None, labels: Tensor, out: Stats) -> None:
    """Fill `out` with the terms of these rows."""
    for at in blocks(raw):
        block = problem.policy.finish(raw[at])
        ref_block = None if ref_raw is None else problem.reference.finish(ref_raw[at])
        found = _measure(block, ref_block, labels[at], problem.kl)
        for target, value in zip(vars(out.at(at)).values(), found, strict=True):
            if target is not None:
                target.copy_(value)


def _measure(z: Tensor, ref_z: Tensor | None, labels: Tensor, kl: tuple[str, ...]) -> tuple[Tensor | None, ...]:
    at = labels[:, None]
    label, top = z.gather(1, at), z.amax(-1, keepdim=True)
    gap = z - ref_z if kl else None
    p = z.sub_(top).exp_()
    mass = p.sum(-1, keepdim=True)
    norm = mass.log() + top
    if ref_z is None:
        return (label - norm)[:, 0], None, None, None, norm[:, 0], None
    ref_label, ref_top = ref_z.gather(1, at), ref_z.amax(-1, keepdim=True)
    q = ref_z.sub_(ref_top).exp_()
    ref_mass = q.sum(-1, keepdim=True)
    ref_norm = ref_mass.log() + ref_top
    reverse = forward = None
    if kl:
        gap.sub_(norm - ref_norm)  # log p - log q; differences first, as the normalisers are large
    if "reverse" in kl:
        reverse = (torch.linalg.vecdot(p, gap) / mass[:, 0]).clamp(min=0.0)
    if "forward" in kl:
        forward = (-torch.linalg.vecdot(q, gap) / ref_mass[:, 0]).clamp(min=0.0)
    return (label - norm)[:, 0], (ref_label - ref_norm)[:, 0], reverse, forward, norm[:, 0], ref_norm[:, 0]


def descend(problem: Problem, raw: Tensor, ref_raw: Tensor | None, labels: Tensor, stats: Stats, g: Slopes) -> Tensor:
    """d loss / d raw (k, V), written over `raw`."""
    for at in blocks(raw):
        z = problem.policy.finish(raw[at])
        ref_z = None if ref_raw is None else problem.reference.finish(ref_raw[at])
        raw[at] = _descend(problem.policy, z, ref_z, labels[at], stats.at(at), g.at(at))
    return raw


def _descend(side: Side, z: Tensor, ref_z: Tensor | None, labels: Tensor, stats: Stats, g: Slopes) -> Tensor:
    bend = None if side.softcap is None else 1 - (z / side.softcap) ** 2
    log_p = z.sub_(stats.norm[:, None])
    log_q = None if ref_z is None else ref_z.sub_(stats.ref_norm[:, None])
    toward_p = torch.zeros_like(stats.norm)  # the coefficient of p
    if g.forward is not None:
        toward_p = toward_p + g.forward
    if g.logps is not None:
        toward_p = toward_p - g.logps
    if g.reverse is not None:
        gap = (log_p - log_q).sub_(stats.reverse[:, None]).mul_(g.reverse[:, None]).add_(toward_p[:, None])
        dz = log_p.exp_().mul_(gap)
    else:
        dz = log_p.exp_().mul_(toward_p[:, None])
    if g.forward is not None:
        dz.addcmul_(log_q.exp_(), g.forward[:, None], value=-1.0)
    if g.logps is not None:
        dz.scatter_add_(1, labels[:, None], g.logps[:, None])
    if bend is not None:
        dz.mul_(bend)
    return dz if side.scale == 1.0 else dz.mul_(side.scale)


class Gradients:
    """Where d loss / d hidden, weight and bias of the policy add up, in float32 or better."""

    def __init__(self, side: Side, wants: tuple[bool, bool, bool]):
        self.side = side
        more = torch.promote_types(side.weight.dtype, torch.float32)
        self.hidden = torch.empty_like(side.hidden) if wants[0] else None
        self.weight = torch.zeros_like(side.weight, dtype=more) if wants[1] else None
        self.bias = torch.zeros_like(side.bias, dtype=more) if side.bias is not None and wants[2] else None

    def add(self, dz: Tensor, at: slice) -> None:
        if self.hidden is not None:
            torch.mm(dz, self.side.weight, out=self.hidden[at])
        if self.weight is not None and dz.dtype == self.weight.dtype:
            self.weight.addmm_(dz.T, self.side.hidden[at])
        elif self.weight is not None:
            self.weight += dz.T @ self.side.hidden[at]
        if self.bias is not None:
            self.bias += dz.sum(0, dtype=self.bias.dtype)

    def result(self, factor: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """In the dtypes of hidden, weight and bias; times `factor`."""
        like = (self.side.hidden, self.side.weight, self.side.bias)
        found = zip((self.hidden, self.weight, self.bias), like, strict=True)
        return tuple(
            None if grad is None else (grad if factor is None else grad.mul_(factor)).to(of.dtype) for grad, of in found
        )


class Recompute(torch.autograd.Function):
    """(problem, chunk, hidden, weight, bias) -> logps, ref_logps, reverse, forward; None where not wanted."""

    @staticmethod
    def forward(ctx, problem: Problem, chunk: int, *trained: Tensor | None):
        ctx.set_materialize_grads(False)
        stats = problem.stats(len(problem.labels))
        for at in even(len(problem.labels), chunk):
            ref_raw = None if problem.reference is None else problem.reference.raw(at)
            measure(problem, problem.policy.raw(at), ref_raw, problem.labels[at], stats.at(at))
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
        problem, slopes = ctx.problem, Slopes(g_logps, g_reverse, g_forward)
        stats = Stats(None, None, ctx.reverse, None, ctx.norm, ctx.ref_norm)
        grads = Gradients(problem.policy, ctx.needs_input_grad[2:])
        looks_back = g_reverse is not None or g_forward is not None
        for at in even(len(problem.labels), ctx.chunk):
            ref_raw = problem.reference.raw(at) if looks_back else None
            dz = descend(problem, problem.policy.raw(at), ref_raw, problem.labels[at], stats.at(at), slopes.at(at))
            grads.add(dz, at)
        return None, None, *grads.result()


Score = Callable[..., Tensor]
"""(rows, logps, ref_logps, reverse, forward, weights) -> the loss of the pairs in these rows, summed; a scalar."""


class InForward(torch.autograd.Function):
    """(problem, score, groups, hidden, weight, bias, *weights) -> total loss, logps, ref_logps, reverse, forward.

    `groups`: slices of rows that hold whole pairs. Only the total carries a gradient, to hidden, weight, bias and the
    (n,) weights.
    """

    @staticmethod
    def forward(ctx, problem: Problem, score: Score, groups: list[slice], *trained: Tensor | None):
        weights = trained[3:]
        stats, total = problem.stats(len(problem.labels)), 0.0
        grads = Gradients(problem.policy, ctx.needs_input_grad[3:6])
        ctx.weights = [torch.zeros_like(weight) for weight in weights]
        for at in groups:
            raw, labels, here = problem.policy.raw(at), problem.labels[at], stats.at(at)
            ref_raw = None if problem.reference is None else problem.reference.raw(at)
            measure(problem, raw, ref_raw, labels, here)
            loss, slopes, on_weights = _slopes_of(score, at, here, [weight[at] for weight in weights])
            for target, value in zip(ctx.weights, on_weights, strict=True):
                if value is not None:
                    target[at] = value
            needs_q = slopes.reverse is not None or slopes.forward is not None
            grads.add(descend(problem, raw, ref_raw if needs_q else None, labels, here, slopes), at)
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


def _slopes_of(score: Score, at: slice, stats: Stats, weights: list[Tensor]) -> tuple[Tensor, Slopes, list[Tensor]]:
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
    slopes = Slopes(*(None if term is None else next(found) for term in terms))
    return loss.detach(), slopes, list(found)
