"""The output head alone: log-probs of both models and KL(ref || pi) of some rows, forward and backward."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsepo.objective.fused_head import rows_per_group
from sparsepo.objective.kernels import split_evenly
from sparsepo.objective.lm_head import LMHead
from sparsepo.objective.token_terms import SummedLoss, token_terms


@dataclass(frozen=True)
class Inputs:
    """hidden, ref_hidden (n, d); weight, ref_weight (v, d); labels (n,). hidden and weight want gradients."""

    hidden: Tensor
    weight: Tensor
    ref_hidden: Tensor
    ref_weight: Tensor
    labels: Tensor


def inputs(rows: int, width: int, vocabulary: int, dtype: str, device: Any = "cpu") -> Inputs:
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, width), 0.04 * torch.randn(vocabulary, width)
    near = hidden + 0.05 * torch.randn(rows, width)
    cast = [tensor.to(device, getattr(torch, dtype)) for tensor in (hidden, weight, near, weight.clone())]
    labels = torch.randint(vocabulary, (rows,)).to(device)
    return Inputs(*(t.requires_grad_() for t in cast[:2]), *cast[2:], labels)


def ours(at: Inputs, gradients: str) -> Tensor:
    """Sum of log pi - log ref + KL(ref || pi)."""
    where = (at.hidden, at.ref_hidden, LMHead(at.weight), LMHead(at.ref_weight), at.labels)
    if gradients == "recompute":
        return _value(token_terms(*where, kl=("forward",)))
    groups = split_evenly(len(at.labels), min(rows_per_group(at.weight), len(at.labels) // 2))
    loss = SummedLoss(lambda rows, terms, weights: _value(terms), groups)
    return token_terms(*where, kl=("forward",), loss=loss).total


def _value(terms) -> Tensor:
    return (terms.logps - terms.ref_logps + terms.forward_kl).sum()


def trl(at: Inputs) -> Tensor:
    """The same sum from TRL's kernels: chunked log-probs of either model, and its chunked divergence.

    On a CPU the divergence multiplies in float32 whatever the inputs are, so bfloat16 there says little about a GPU.
    """
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

    def logps(hidden: Tensor, weight: Tensor) -> Tensor:
        return ChunkedLogProbFunction.apply(hidden, weight, None, at.labels, 1.0, CHUNK, None, 1.0, ("log_probs",))[0]

    with torch.no_grad():
        ref_logps = logps(at.ref_hidden, at.ref_weight)
    kl, _ = ChunkedDivergenceFunction.apply(at.hidden, at.weight, None, at.ref_hidden, at.ref_weight, None, 0.0)
    return (logps(at.hidden, at.weight) - ref_logps + kl).sum()
