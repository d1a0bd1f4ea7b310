"""From logits to tokens by numbers that belong to each row alone."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsepo.errors import UserError


def row_seed(seed: int, row: Sequence[int], again: int) -> int:
    """63 bits from the config's seed, the prompt's ids, and its earlier samples' number."""
    digest = hashlib.sha256(repr((seed, list(row), again)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def row_uniforms(seed: int, row: Sequence[int], again: int, count: int) -> Tensor:
    """`count` float64 numbers in [0, 1) that belong to one response; see `row_seed`."""
    generator = torch.Generator().manual_seed(row_seed(seed, row, again))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row: the place where the cumulative probability first exceeds `uniform`, a float64 number a row.

    (b v), (b) -> (b). The same number gives the same token whatever the other rows are. top_p keeps the fewest, most
    likely tokens that hold this share. Cumulative sums are float64, so that a rare token keeps its share of 49,152;
    `uniform` < 1 then never reaches past the end. Raises UserError for logits that are no distribution.
    """
    probabilities, order = (logits.float() / temperature).softmax(-1), None
    if probabilities.device.type == "mps":  # has no float64
        probabilities = probabilities.cpu()
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    whole = cumulative[:, -1:]
    if not whole.isfinite().all():
        raise UserError("the model's logits are not finite, so nothing can be sampled from it; its training diverged")
    if order is not None:
        whole = cumulative.gather(1, (cumulative < top_p * whole).sum(-1, keepdim=True))
    place = torch.searchsorted(cumulative, uniform.to(whole.device)[:, None] * whole, right=True)
    return (place if order is None else order.gather(1, place))[:, 0].to(logits.device)
