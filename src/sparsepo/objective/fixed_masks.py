"""Mask heads without parameters: from activations, from numbers of the pairs, entropy, random, uniform."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sparsepo.objective.masks import MaskHead, MaskInputs
from sparsepo.runtime.errors import UserError


class ActivationHead(MaskHead):
    """MaPO: the weight is computed from the reference's activations, each averaged over its features.

    `reading` says which ones (see `models.activations`) and how. `paper`: the z-scores over the response, averaged over
    all activations; they sum to 0 over a response, so about half the weights are negative. `authors`: each is rescaled
    to [0, 1] over the response (which cancels their z-score), averaged over the activations of a site, then over sites;
    their rounding of statistics to float16 is left out. Where all values of a response are equal, as with one token,
    the z-score is 0 and the rescaled weight 1. activation_sites: None for all that the reading has.
    """

    reads = "activations"

    def __init__(self, reading: Literal["paper", "authors"], activation_sites: Sequence[str] | None = None):
        super().__init__()
        self.reading = reading
        self.sites = None if activation_sites is None else tuple(activation_sites)
        self.can_be_negative = reading == "paper"

    def forward(self, inputs: MaskInputs) -> Tensor:
        if inputs.weights is not None:
            return inputs.weights
        sites = list(inputs.activations.values())
        if self.reading == "paper":
            return torch.stack([_zscore(values, inputs.valid) for site in sites for values in site]).mean(0)
        means = [torch.stack([_minmax(values, inputs.valid) for values in site]).mean(0) for site in sites]
        return torch.stack(means).mean(0)


class GivenHead(MaskHead):
    """The numbers that the pairs have for each token, unchanged (as in TLCR, Yoon et al. 2024)."""

    reads = "values"
    can_be_negative = True

    def forward(self, inputs: MaskInputs) -> Tensor:
        return _values(inputs).where(inputs.valid, 0.0)


class SelectedHead(MaskHead):
    """SePO: 1 on the tokens that an oracle's scores select, the highest of a chosen, the lowest of a rejected response.

    The `values` are scores, log pi_oracle - log ref. Of N tokens floor(k N) are selected, and at least one; of equal
    scores the first. Source: Yang et al. 2024, arXiv 2408.13518.
    """

    reads = "values"

    def __init__(self, k_chosen: float, k_rejected: float):
        super().__init__()
        self.k_chosen, self.k_rejected = k_chosen, k_rejected

    def forward(self, inputs: MaskInputs) -> Tensor:
        chosen, rejected = _values(inputs).chunk(2)
        return self.select(chosen, -rejected, inputs.valid)

    def select(self, chosen: Tensor, rejected: Tensor, valid: Tensor) -> Tensor:
        """(s, t): 1 on the highest scores (s / 2, t) of each chosen and each rejected response."""
        valid_chosen, valid_rejected = valid.chunk(2)
        return torch.cat(
            [
                select_highest(chosen, valid_chosen, self.k_chosen),
                select_highest(rejected, valid_rejected, self.k_rejected),
            ]
        )


class ExcessHead(SelectedHead):
    """Rho-1: 1 on the tokens of the largest excess loss of the policy over an oracle trained on good texts.

    The excess is log pi_oracle - log pi, here score - log pi/ref of the policy at this step. Source: Lin et al. 2024,
    who select the top k of a batch; here it is of each response, so that a pair does not depend on others.
    """

    reads = "logratio"

    def forward(self, inputs: MaskInputs) -> Tensor:
        chosen, rejected = (_values(inputs) - inputs.logratio).chunk(2)
        return self.select(chosen, rejected, inputs.valid)


class EntropyHead(MaskHead):
    """The reference's entropy at the position that predicts the token, nats: the control for weights that only follow
    its uncertainty."""

    reads = "entropy"

    def forward(self, inputs: MaskInputs) -> Tensor:
        return inputs.entropy.where(inputs.valid, 0.0)


class ImportanceHead(MaskHead):
    r"""TIS-DPO: exp(mu clamp(s, clamp_min, clamp_max)) on chosen tokens, exp(-mu clamp(..)) on rejected ones.

    The `values` are scores s = log pi+ - log pi- of a model trained towards the chosen and one trained towards the
    rejected responses. Source: Liu et al. 2024 (TIS-DPO), arXiv 2410.04350, where a factor k = 1 scales all weights, as
    beta does.
    """

    reads = "values"

    def __init__(self, mu: float, clamp_min: float, clamp_max: float):
        super().__init__()
        self.mu, self.clamp_min, self.clamp_max = mu, clamp_min, clamp_max

    def forward(self, inputs: MaskInputs) -> Tensor:
        scores = _values(inputs).where(inputs.valid, 0.0).clamp(self.clamp_min, self.clamp_max)
        chosen, rejected = scores.chunk(2)
        return torch.cat([chosen, -rejected]).mul(self.mu).exp().where(inputs.valid, 0.0)


class AttributionHead(MaskHead):
    r"""TI-DPO: T (lambda I / sum I + (1 - lambda) P / sum P) on the T tokens of a response, whose mean is 1.

    The `values` are I, the size of a gradient at each token, see `training.token_scores.gradient_scores`; lambda =
    `attribution_share`. P_t = exp(-((t - (T - 1) / 2) / sigma)^2 / 2), t from 0, sigma = `prior_width` * T. Where all I
    are 0 the weights are the prior. Source: Yang et al. 2025 (TI-DPO), arXiv 2505.19653, Eq. 5-8, whose weights have
    the sum 1: here it is T, so that a beta means what it does in DPO.
    """

    reads = "values"

    def __init__(self, attribution_share: float, prior_width: float):
        super().__init__()
        self.attribution_share, self.prior_width = attribution_share, prior_width

    def forward(self, inputs: MaskInputs) -> Tensor:
        valid, values = inputs.valid, _values(inputs)
        count = valid.sum(-1, keepdim=True)
        place = torch.arange(valid.shape[1], device=valid.device, dtype=values.dtype) - (count - 1) / 2
        prior = _distribution(torch.exp(-0.5 * (place / (self.prior_width * count)).square()), valid)
        attribution = _distribution(values, valid)
        attribution = torch.where(attribution.sum(-1, keepdim=True) > 0, attribution, prior)
        return count * torch.lerp(prior, attribution, self.attribution_share)


class RandomHead(MaskHead):
    """Uniform in [0, 1), new for each batch: the control for whether it matters which tokens have a large weight."""

    def forward(self, inputs: MaskInputs) -> Tensor:
        return torch.rand(inputs.valid.shape, device=inputs.valid.device)


class UniformHead(MaskHead):
    """Weight 1 everywhere: in the released form this is TDPO v1."""

    def forward(self, inputs: MaskInputs) -> Tensor:
        return torch.ones(inputs.valid.shape, device=inputs.valid.device)


def select_highest(scores: Tensor, valid: Tensor, share: float) -> Tensor:
    """(s, t): 1 on the floor(share * N) highest scores of the N valid tokens of each row, and at least one; else 0."""
    count = (share * valid.sum(-1) + 1e-6).floor().clamp_min(1)  # 0.29 * 100 is a little less than 29
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(-1)
    return ((rank < count[:, None]) & valid).to(torch.promote_types(scores.dtype, torch.float32))


def _distribution(values: Tensor, valid: Tensor) -> Tensor:
    """(s, t): values >= 0 divided by their sum over the valid tokens of each row; 0 where that is 0."""
    values = values.to(torch.promote_types(values.dtype, torch.float32)).where(valid, 0.0)
    total = values.sum(-1, keepdim=True)
    return values / total.where(total > 0, 1.0)


def _values(inputs: MaskInputs) -> Tensor:
    if inputs.values is None:
        raise UserError("this mask reads a number for each token, and the pairs have no chosen_values, rejected_values")
    return inputs.values


def _zscore(values: Tensor, valid: Tensor) -> Tensor:
    """(s, t): (x - mean) / deviation over the valid tokens of each row (unbiased deviation); 0 where it is 0."""
    count = valid.sum(-1, keepdim=True)
    values = values.to(torch.promote_types(values.dtype, torch.float32)).where(valid, 0.0)
    centered = (values - values.sum(-1, keepdim=True) / count).where(valid, 0.0)
    deviation = (centered.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    low, high = _extremes(values, valid)  # not the deviation: a mean of equal numbers need not equal them
    return torch.where(high > low, centered / deviation, 0.0).where(valid, 0.0)


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
