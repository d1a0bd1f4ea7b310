"""The output head of a causal LM: from last hidden states to logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LMHead:
    """z = scale * (h W^T + bias), then softcap * tanh(z / softcap) where `softcap` is given.

    weight: (vocabulary, width); bias: (vocabulary,) or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary), float32 or float64: what `token_terms` computes with."""
        logits = F.linear(hidden, self.weight, self.bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def mean_logit(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (...): the mean of the logits over the vocabulary."""
        if self.softcap is not None:
            rows = [self.logits(chunk).mean(-1) for chunk in hidden.flatten(0, -2).split(256)]
            return torch.cat(rows).view(hidden.shape[:-1])
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        bias = 0.0 if self.bias is None else self.bias.mean(dtype=dtype)
        return self.scale * (hidden.to(dtype) @ self.weight.mean(0, dtype=dtype) + bias)

    def raw_logits(self, hidden: Tensor, chunks: Sequence[slice]) -> Iterator[Tensor]:
        """Yields h W^T + bias, (k, vocabulary), for each chunk of the rows of `hidden` (n, width).

        All chunks are written to the same memory: use one before taking the next.
        """
        buffer = hidden.new_empty(max((len(hidden[rows]) for rows in chunks), default=0), len(self.weight))
        for rows in chunks:
            out = buffer[: len(hidden[rows])]
            if self.bias is None:
                yield torch.mm(hidden[rows], self.weight.T, out=out)
            else:
                yield torch.addmm(self.bias, hidden[rows], self.weight.T, out=out)

    def to(self, dtype: torch.dtype) -> "LMHead":
        """With weight and bias in another dtype, differentiable."""
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))

    def frozen_copy(self) -> "LMHead":
        """A copy without gradient, which does not change when the model is trained."""
        bias = None if self.bias is None else self.bias.detach().clone()
        return replace(self, weight=self.weight.detach().clone(), bias=bias)
