"""Mask heads that learn nothing: activations, numbers that came with the pairs, random, uniform."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sparsepo.objective.masks import MaskHead, MaskInputs
from sparsepo.runtime.errors import UserError


class ActivationHead(MaskHead):
    """MaPO: the weight is read off the reference's activations; nothing is learned.

    Each module's output is averaged over its features and z-scored over the response; kinds of modules count equally.
    `minmax` (the authors' code): each vector is then rescaled to [0, 1] over the response. `zscore` (the paper's text):
    it is not, and half the weights are negative. Where all values are equal (one token, say) there is nothing to
    compare: the rescaled weight is 1 and the z-score 0. The authors' rounding of statistics to float16 is left out.
    """

    looks_at = "activations"

    def __init__(self, kinds: Sequence[str], normalisation: Literal["minmax", "zscore"]):
        super().__init__()
        self.kinds = tuple(kinds)
        self.normalise = {"minmax": _minmax, "zscore": _zscore}[normalisation]

    def forward(self, views: MaskInputs) -> Tensor:
        activations = views.activations or {}
        per_kind = [
            torch.stack([self.normalise(values, views.valid) for values in activations[kind]]).mean(0)
            for kind in self.kinds
        ]
        return torch.stack(per_kind).mean(0)


class GivenHead(MaskHead):
    """The numbers that came with the pairs, as they are: one weight a token (as in TLCR, Yoon et al. 2024)."""

    looks_at = "values"

    def forward(self, views: MaskInputs) -> Tensor:
        return _brought(views).where(views.valid, 0.0)


class SelectedHead(MaskHead):
    """SePO: 1 on the tokens that an oracle's scores keep, the highest of a chosen response, the lowest of a rejected.

    The `values` are scores, log pi_oracle - log ref. Of N tokens floor(k N) are kept, and at least one; among equals
    the first. Source: Yang et al. 2024, arXiv 2408.13518.
    """

    looks_at = "values"

    def __init__(self, k_chosen: float, k_rejected: float):
        super().__init__()
        self.k_chosen, self.k_rejected = k_chosen, k_rejected

    def forward(self, views: MaskInputs) -> Tensor:
        chosen, rejected = _brought(views).chunk(2)
        ok_chosen, ok_rejected = views.valid.chunk(2)
        return torch.cat([highest(chosen, ok_chosen, self.k_chosen), highest(-rejected, ok_rejected, self.k_rejected)])


class ExcessHead(SelectedHead):
    """Rho-1: 1 on the tokens of the largest excess loss of the policy over an oracle trained on good texts.

    The excess is log pi_oracle - log pi, here as score - log pi/ref, with the policy as it is at this step. Source: Lin
    et al. 2024, who keep the top k of a batch; here it is of each response, so that a pair does not depend on others.
    """

    looks_at = "policy"

    def forward(self, views: MaskInputs) -> Tensor:
        chosen, rejected = (_brought(views) - views.logratio).chunk(2)
        ok_chosen, ok_rejected = views.valid.chunk(2)
        return torch.cat([highest(chosen, ok_chosen, self.k_chosen), highest(rejected, ok_rejected, self.k_rejected)])


class RandomHead(MaskHead):
    """Uniform in [0, 1), drawn anew for each batch: the control that says whether *where* matters."""

    def forward(self, views: MaskInputs) -> Tensor:
        return torch.rand(views.valid.shape, device=views.valid.device)


class UniformHead(MaskHead):
    """Weight 1 everywhere: in the released form this is TDPO v1."""

    def forward(self, views: MaskInputs) -> Tensor:
        return torch.ones(views.valid.shape, device=views.valid.device)


def highest(scores: Tensor, valid: Tensor, share: float) -> Tensor:
    """(s, t): 1 on the floor(share * N) highest scores of the N valid tokens of each row, and at least one, else 0."""
    count = (share * valid.sum(-1) + 1e-6).floor().clamp_min(1)  # 0.29 * 100 is a little less than 29
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(-1)
    return ((rank < count[:, None]) & valid).to(torch.promote_types(scores.dtype, torch.float32))


def _brought(views: MaskInputs) -> Tensor:
    if views.values is None:
        raise UserError(
            "the pairs bring no numbers for their tokens (chosen_values, rejected_values), which this mask reads"
        )
    return views.values


def _zscore(values: Tensor, valid: Tensor) -> Tensor:
    """(s, t): (x - mean) / deviation over the valid tokens of each row (unbiased deviation); 0 where it is 0."""
    count = valid.sum(-1, keepdim=True)
    values = values.to(torch.promote_types(values.dtype, torch.float32)).where(valid, 0.0)
    centred = (values - values.sum(-1, keepdim=True) / count).where(valid, 0.0)
    deviation = (centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    low, high = _extremes(values, valid)  # not the deviation: a mean of equal numbers need not equal them
    return torch.where(high > low, centred / deviation, 0.0).where(valid, 0.0)


def _minmax(values: Tensor, valid: Tensor) -> Tensor:
    """(s, t): rescaled to [0, 1] over the valid tokens of each row; 1 where all are equal."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    low, high = _extremes(values, valid)
    return torch.where(high > low, (values - low) / (high - low), 1.0).where(valid, 0.0)


def _extremes(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest valid value of each row, (s, 1)."""
    return (
        values.where(valid, torch.inf).amin(-1, keepdim=True),
        values.where(valid, -torch.inf).amax(-1, keepdim=True),
    )
