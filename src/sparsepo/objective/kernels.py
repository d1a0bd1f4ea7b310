"""Token terms of rows of logits, and what the loss's gradient with respect to them makes of the logits, in closed form.

With p, q the distributions of policy and reference and z the policy's logits:

    d logp / dz = onehot - p      d KL(p||q) / dz = p (log p - log q - KL(p||q))      d KL(q||p) / dz = p - q
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED = 2**18
"""Logits that elementwise passes on a CPU handle at a time: 1 MB in float32, so that they stay in the cache."""


@dataclass(frozen=True)
class OutputMap:
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

    policy: OutputMap
    reference: OutputMap | None
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


def _descend(side: OutputMap, z: Tensor, ref_z: Tensor | None, labels: Tensor, stats: Stats, g: Slopes) -> Tensor:
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
