"""Token terms of rows of logits, and the gradient of a loss of these terms with respect to the logits.

With p, q the distributions of policy and reference and z the policy's logits:

    d logp / dz = onehot - p      d KL(p||q) / dz = p (log p - log q - KL(p||q))      d KL(q||p) / dz = p - q
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from sparsepo.objective.lm_head import LMHead

CACHED_LOGITS = 2**18
"""Logits that elementwise operations on a CPU process at a time: 1 MB in float32, which stays in the cache."""


class Compiled:
    """`function`, compiled by `torch.compile` when its first tensor is on a GPU; the same numbers either way.

    Tensors may have any number of rows without a new compilation. Where compilation fails (Triton needs a C compiler)
    one line is printed, and the function runs uncompiled. The function may change its first tensor in place.
    `TORCH_COMPILE_DISABLE=1`, torch's own switch, turns compilation off.
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
            print(f"{self.function.__name__} runs uncompiled, with more time and memory: {reason}", flush=True)
            self.run = self.function
            return self.function(first, *others)


@dataclass(frozen=True)
class TermStats:
    """(n,) each: the terms of n response tokens and the log normalisers of both models; None where not needed."""

    logps: Tensor
    ref_logps: Tensor | None
    reverse_kl: Tensor | None
    forward_kl: Tensor | None
    log_norm: Tensor
    ref_log_norm: Tensor | None

    def select(self, rows: slice) -> "TermStats":
        """Views of some rows."""
        return TermStats(*_select(self, rows))


@dataclass(frozen=True)
class TermGrads:
    """(n,) each: d loss / d term; None where the loss does not depend on it."""

    logps: Tensor | None
    reverse_kl: Tensor | None
    forward_kl: Tensor | None

    def select(self, rows: slice) -> "TermGrads":
        return TermGrads(*_select(self, rows))


def _select(tensors: TermStats | TermGrads, rows: slice) -> list[Tensor | None]:
    return [None if tensor is None else tensor[rows] for tensor in vars(tensors).values()]


@dataclass(frozen=True)
class HeadInputs:
    """What the terms of n response tokens are computed from.

    hidden: (n, d), of the policy; ref_hidden: (n, d'), None for the policy alone; labels: (n,); kl: the directions to
    compute, some of "reverse", "forward".
    """

    hidden: Tensor
    head: LMHead
    ref_hidden: Tensor | None
    ref_head: LMHead | None
    labels: Tensor
    kl: tuple[str, ...]

    def raw_logits(
        self, chunks: Sequence[slice], with_reference: bool = True
    ) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Yields each chunk of rows with the raw logits of policy and reference, see `LMHead.raw_logits`."""
        ref_raw = repeat(None, len(chunks))
        if with_reference and self.ref_head is not None:
            ref_raw = self.ref_head.raw_logits(self.ref_hidden, chunks)
        return zip(chunks, self.head.raw_logits(self.hidden, chunks), ref_raw, strict=True)

    @property
    def transforms(self) -> tuple[float, float | None, float, float | None]:
        """Scale and softcap of the policy's head, then of the reference's."""
        ref_head = self.head if self.ref_head is None else self.ref_head
        return self.head.scale, self.head.softcap, ref_head.scale, ref_head.softcap

    def empty_stats(self) -> TermStats:
        """Uninitialised, for all rows."""
        dtype, has_reference = torch.promote_types(self.hidden.dtype, torch.float32), self.ref_head is not None
        needed = (True, has_reference, "reverse" in self.kl, "forward" in self.kl, True, has_reference)
        return TermStats(*(self.hidden.new_empty(len(self.labels), dtype=dtype) if need else None for need in needed))


def split_evenly(size: int, max_rows: int) -> list[slice]:
    """Slices of at most `max_rows` rows, as equal as possible: a last chunk of three rows would cost as much as any."""
    count = -(-size // max_rows)
    ends = [size * place // count for place in range(count + 1)] if size else []
    return list(map(slice, ends[:-1], ends[1:]))


def _elementwise_blocks(raw: Tensor) -> list[slice]:
    """Rows to process at a time: what fits the cache of a CPU, all of them elsewhere."""
    max_rows = CACHED_LOGITS // raw.shape[1] if raw.device.type == "cpu" else len(raw)
    return split_evenly(len(raw), max(max_rows, 1))


def compute_terms(inputs: HeadInputs, raw: Tensor, ref_raw: Tensor | None, labels: Tensor, out: TermStats) -> None:
    """Write the terms of these rows to `out`. raw, ref_raw: (k, vocabulary) raw logits; labels: (k,)."""
    for rows in _elementwise_blocks(raw):
        ref_block = None if ref_raw is None else ref_raw[rows]
        values = _terms_of_rows(raw[rows], ref_block, labels[rows], *inputs.transforms, inputs.kl)
        for target, value in zip(vars(out.select(rows)).values(), values, strict=True):
            if target is not None:
                target.copy_(value)


def logit_grads(
    inputs: HeadInputs, raw: Tensor, ref_raw: Tensor | None, labels: Tensor, stats: TermStats, grads: TermGrads
) -> Tensor:
    """d loss / d raw (k, vocabulary), written over `raw`; stats and grads are those of the same rows."""
    for rows in _elementwise_blocks(raw):
        ref_block, block = None if ref_raw is None else ref_raw[rows], stats.select(rows)
        norms = block.log_norm, block.ref_log_norm, block.reverse_kl
        term_grads = vars(grads.select(rows)).values()
        _write_logit_grads(raw[rows], ref_block, labels[rows], *norms, *term_grads, *inputs.transforms)
    return raw


def _transform(raw: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Logits of raw ones, see `LMHead`: a float32 or float64 copy, never below a quarter of the least finite number.

    So a banned token (-inf) has probability 0 and a finite log, and 0 * log 0 is 0.
    """
    logits = raw.to(torch.promote_types(raw.dtype, torch.float32), copy=True)
    if scale != 1.0:
        logits.mul_(scale)
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits.clamp_(min=torch.finfo(logits.dtype).min / 4)


@Compiled
def _terms_of_rows(
    raw: Tensor,
    ref_raw: Tensor | None,
    labels: Tensor,
    scale: float,
    softcap: float | None,
    ref_scale: float,
    ref_softcap: float | None,
    kl: tuple[str, ...],
) -> tuple[Tensor | None, ...]:
    """The fields of TermStats."""
    z, columns = _transform(raw, scale, softcap), labels[:, None]
    ref_z = None if ref_raw is None else _transform(ref_raw, ref_scale, ref_softcap)
    label, top = z.gather(1, columns), z.amax(-1, keepdim=True)
    gap = z - ref_z if kl else None
    p = z.sub_(top).exp_()
    mass = p.sum(-1, keepdim=True)
    norm = mass.log() + top
    if ref_z is None:
        return (label - norm)[:, 0], None, None, None, norm[:, 0], None
    ref_label, ref_top = ref_z.gather(1, columns), ref_z.amax(-1, keepdim=True)
    q = ref_z.sub_(ref_top).exp_()
    ref_mass = q.sum(-1, keepdim=True)
    ref_norm = ref_mass.log() + ref_top
    reverse = forward = None
    if kl:
        gap.sub_(norm - ref_norm)  # log p - log q; differences first, as the normalisers are large
    if "reverse" in kl:
        reverse = (_row_dot(p, gap) / mass[:, 0]).clamp(min=0.0)
    if "forward" in kl:
        forward = (-_row_dot(q, gap) / ref_mass[:, 0]).clamp(min=0.0)
    return (label - norm)[:, 0], (ref_label - ref_norm)[:, 0], reverse, forward, norm[:, 0], ref_norm[:, 0]


def row_entropy(raw: Tensor, scale: float, softcap: float | None) -> Tensor:
    """(k,): the entropy of each row of raw logits (k, vocabulary), nats."""
    log_p = _transform(raw, scale, softcap).log_softmax(-1)
    return -torch.linalg.vecdot(log_p.exp(), log_p)


def _row_dot(a: Tensor, b: Tensor) -> Tensor:
    """(k, V) and (k, V) -> (k,): fused with what comes before it, or at least without a copy of the product."""
    return (a * b).sum(-1) if torch.compiler.is_compiling() else torch.linalg.vecdot(a, b)


@Compiled
def _write_logit_grads(
    raw: Tensor,
    ref_raw: Tensor | None,
    labels: Tensor,
    log_norm: Tensor,
    ref_log_norm: Tensor | None,
    reverse_kl: Tensor | None,
    g_logps: Tensor | None,
    g_reverse: Tensor | None,
    g_forward: Tensor | None,
    scale: float,
    softcap: float | None,
    ref_scale: float,
    ref_softcap: float | None,
) -> None:
    z = _transform(raw, scale, softcap)
    softcap_grad = None if softcap is None else 1 - (z / softcap) ** 2
    log_p = z.sub_(log_norm[:, None])
    log_q = None if ref_raw is None else _transform(ref_raw, ref_scale, ref_softcap).sub_(ref_log_norm[:, None])
    p_factor = torch.zeros_like(log_norm)
    if g_forward is not None:
        p_factor = p_factor + g_forward
    if g_logps is not None:
        p_factor = p_factor - g_logps
    if g_reverse is not None:
        gap = (log_p - log_q).sub_(reverse_kl[:, None]).mul_(g_reverse[:, None]).add_(p_factor[:, None])
        dz = log_p.exp_().mul_(gap)
    else:
        dz = log_p.exp_().mul_(p_factor[:, None])
    if g_forward is not None:
        dz.addcmul_(log_q.exp_(), g_forward[:, None], value=-1.0)
    if g_logps is not None:
        dz = _add_at_labels(dz, labels, g_logps)
    if softcap_grad is not None:
        dz.mul_(softcap_grad)
    raw.copy_(dz if scale == 1.0 else dz.mul_(scale))


def _add_at_labels(dz: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    """dz (k, V) plus a value at each row's label; compiled code fuses a comparison, but not a scatter."""
    if torch.compiler.is_compiling():
        vocabulary = torch.arange(dz.shape[1], device=dz.device)
        return dz + torch.where(vocabulary == labels[:, None], values[:, None], 0.0)
    return dz.scatter_add_(1, labels[:, None], values[:, None])
