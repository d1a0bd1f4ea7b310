"""Token terms of rows of logits, and what the loss's gradient with respect to them makes of the logits, in closed form.

With p, q the distributions of policy and reference and z the policy's logits:

    d logp / dz = onehot - p      d KL(p||q) / dz = p (log p - log q - KL(p||q))      d KL(q||p) / dz = p - q
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor


class Compiled:
    """`function` as it is on a CPU, compiled by `torch.compile` when the first tensor is on a GPU: the same numbers.

    Its tensors may have any number of rows without being compiled again. Where compiling fails (Triton needs a C
    compiler, which some nodes lack) a line says why, and the function runs as it is. It may change the first tensor in
    place, as compiling runs nothing. `TORCH_COMPILE_DISABLE=1`, torch's own switch, turns it off.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.run: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__

    def __call__(self, first: Tensor, *others: Any) -> Any:
        if not first.is_cuda or self.run is self.function:
            return self.function(first, *others)
        if self.run is None:
            self.run = torch.compile(self.function)
        for tensor in filter(torch.is_tensor, (first, *others)):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            return self.run(first, *others)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            print(f"{self.function.__name__} is not compiled, which takes more time and memory: {reason}", flush=True)
            self.run = self.function
            return self.function(first, *others)


CACHED = 2**18
"""Logits that elementwise passes on a CPU handle at a time: 1 MB in float32, so that they stay in the cache."""


@dataclass(frozen=True)
class Bend:
    """What follows a linear output map: z = scale * raw, then softcap * tanh(z / softcap) where that is given."""

    scale: float = 1.0
    softcap: float | None = None

    def finish(self, raw: Tensor) -> Tensor:
        """Scaled and capped logits, float32 or float64, never below a quarter of the least finite number: a banned
        token (-inf) then has probability 0 and a finite log, so that 0 * log 0 is 0."""
        logits = raw.to(torch.promote_types(raw.dtype, torch.float32), copy=True)
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits.clamp_(min=torch.finfo(logits.dtype).min / 4)

    def slope(self, z: Tensor) -> Tensor | None:
        """d z / d (scale * raw); None: 1."""
        return None if self.softcap is None else 1 - (z / self.softcap) ** 2


@dataclass(frozen=True)
class OutputMap:
    """A model's states and output map: hidden (n, d), weight (V, d), bias (V,) or None, and what follows the map."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    bend: Bend = Bend()

    def raw(self, parts: Sequence[slice]) -> Iterator[Tensor]:
        """(k, V) what the linear map gives for each part of the rows, written where the last part's was."""
        room = self.hidden.new_empty(max((len(self.hidden[at]) for at in parts), default=0), len(self.weight))
        for at in parts:
            hidden = self.hidden[at]
            out = room[: len(hidden)]
            if self.bias is None:
                yield torch.mm(hidden, self.weight.T, out=out)
            else:
                yield torch.addmm(self.bias, hidden, self.weight.T, out=out)


@dataclass(frozen=True)
class HeadInputs:
    """What both ways compute on. `reference` None: the policy alone. `kl`: which directions are wanted."""

    policy: OutputMap
    reference: OutputMap | None
    labels: Tensor
    kl: tuple[str, ...]

    def raw(self, parts: Sequence[slice], both: bool = True) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Each part of the rows with the raw logits of policy and reference, which live until the next one's."""
        ref_raw = self.reference.raw(parts) if both and self.reference is not None else repeat(None, len(parts))
        return zip(parts, self.policy.raw(parts), ref_raw, strict=True)

    @property
    def bends(self) -> tuple[Bend, Bend | None]:
        """Of policy and reference."""
        return self.policy.bend, None if self.reference is None else self.reference.bend

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
class TermGrads:
    """(n,) each: d loss / d term; None where the loss does not depend on it."""

    logps: Tensor | None
    reverse: Tensor | None
    forward: Tensor | None

    def at(self, rows: slice) -> "TermGrads":
        return TermGrads(*(None if value is None else value[rows] for value in vars(self).values()))


def even(size: int, most: int) -> list[slice]:
    """Slices of at most `most` rows, as equal as can be: a last chunk of three rows would stream the weights too."""
    count = -(-size // most)
    ends = [size * place // count for place in range(count + 1)] if size else []
    return list(map(slice, ends[:-1], ends[1:]))


def blocks(raw: Tensor) -> list[slice]:
    """Rows to handle at a time in elementwise passes: what the cache holds on a CPU, all of them elsewhere."""
    most = max(1, CACHED // raw.shape[1]) if raw.device.type == "cpu" else len(raw)
    return even(len(raw), max(most, 1))


def measure(problem: HeadInputs, raw: Tensor, ref_raw: Tensor | None, labels: Tensor, out: Stats) -> None:
    """Fill `out` with the terms of these rows."""
    for at in blocks(raw):
        ref_block = None if ref_raw is None else ref_raw[at]
        found = _terms(raw[at], ref_block, labels[at], *problem.bends, problem.kl)
        for target, value in zip(vars(out.at(at)).values(), found, strict=True):
            if target is not None:
                target.copy_(value)


@Compiled
def _terms(raw, ref_raw, labels, bend: Bend, ref_bend: Bend | None, kl: tuple[str, ...]) -> tuple[Tensor | None, ...]:
    return _measure(bend.finish(raw), None if ref_raw is None else ref_bend.finish(ref_raw), labels, kl)


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
        reverse = (_dot(p, gap) / mass[:, 0]).clamp(min=0.0)
    if "forward" in kl:
        forward = (-_dot(q, gap) / ref_mass[:, 0]).clamp(min=0.0)
    return (label - norm)[:, 0], (ref_label - ref_norm)[:, 0], reverse, forward, norm[:, 0], ref_norm[:, 0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(k, V) and (k, V) -> (k,): in one kernel with what comes before, or at least without a copy of the product."""
    return (a * b).sum(-1) if torch.compiler.is_compiling() else torch.linalg.vecdot(a, b)


def logit_grads(
    problem: HeadInputs, raw: Tensor, ref_raw: Tensor | None, labels: Tensor, stats: Stats, g: TermGrads
) -> Tensor:
    """d loss / d raw (k, V), written over `raw`."""
    for at in blocks(raw):
        ref_block, here = None if ref_raw is None else ref_raw[at], stats.at(at)
        known = here.norm, here.ref_norm, here.reverse
        _gradient(raw[at], ref_block, labels[at], *known, *vars(g.at(at)).values(), *problem.bends)
    return raw


@Compiled
def _gradient(
    raw: Tensor,
    ref_raw: Tensor | None,
    labels: Tensor,
    norm: Tensor,
    ref_norm: Tensor | None,
    reverse: Tensor | None,
    g_logps: Tensor | None,
    g_reverse: Tensor | None,
    g_forward: Tensor | None,
    bend: Bend,
    ref_bend: Bend | None,
) -> None:
    z = bend.finish(raw)
    slope = bend.slope(z)
    log_p = z.sub_(norm[:, None])
    log_q = None if ref_raw is None else ref_bend.finish(ref_raw).sub_(ref_norm[:, None])
    toward_p = torch.zeros_like(norm)  # the coefficient of p
    if g_forward is not None:
        toward_p = toward_p + g_forward
    if g_logps is not None:
        toward_p = toward_p - g_logps
    if g_reverse is not None:
        gap = (log_p - log_q).sub_(reverse[:, None]).mul_(g_reverse[:, None]).add_(toward_p[:, None])
        dz = log_p.exp_().mul_(gap)
    else:
        dz = log_p.exp_().mul_(toward_p[:, None])
    if g_forward is not None:
        dz.addcmul_(log_q.exp_(), g_forward[:, None], value=-1.0)
    if g_logps is not None:
        dz = _add_at(dz, labels, g_logps)
    if slope is not None:
        dz.mul_(slope)
    raw.copy_(dz if bend.scale == 1.0 else dz.mul_(bend.scale))


def _add_at(dz: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    """dz (k, V) with a value added at each row's label; a comparison joins the kernel around it, a scatter does not."""
    if torch.compiler.is_compiling():
        vocabulary = torch.arange(dz.shape[1], device=dz.device)
        return dz + torch.where(vocabulary == labels[:, None], values[:, None], 0.0)
    return dz.scatter_add_(1, labels[:, None], values[:, None])
