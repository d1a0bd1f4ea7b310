"""Mask heads that are trained: projections of the reference's hidden states, of all layers or of the last one."""

from collections.abc import Iterable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepo.objective.masks import MaskHead


class LayerStates:
    """Hidden states of one layer, (..., d), with what several heads compute from them."""

    def __init__(self, values: Tensor):
        self.values = values.to(torch.promote_types(values.dtype, torch.float32))

    @cached_property
    def normalized(self) -> Tensor:
        """With mean 0 and variance 1 over the features."""
        return F.layer_norm(self.values, self.values.shape[-1:])


class LearnedHead(MaskHead):
    """Abstract: a head whose weight is a ReLU over learned projections, each of the hidden states of one layer.

    A layer's states can be dropped as soon as they are projected, so the head is called on its projections (..., p)
    instead of MaskInputs. `inner` gives each projection a hidden width: two linear layers with no nonlinearity between
    (authors' code). `binary`: the weight is 1 where it would be positive, with a straight-through gradient.
    """

    reads = "hidden_states"

    def __init__(self, num_layers: int, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__()
        self.num_layers, self.binary = num_layers, binary

    def project(self, layer: int, states: LayerStates) -> Tensor | None:
        """(..., 1): the projection of layer 0 .. num_layers - 1, before any ReLU; None: the head does not read it."""
        raise NotImplementedError

    def merge_projections(self, projections: Tensor) -> Tensor:
        """(..., p) -> (...): the weight >= 0, before it is made binary."""
        raise NotImplementedError

    def forward(self, projections: Tensor) -> Tensor:
        """(..., p) -> (...): the weight."""
        weight = self.merge_projections(projections)
        return _straight_through(weight) if self.binary else weight

    def initialize(self, projections: Tensor, zeros: float) -> None:
        """Change the parameters so that of these tokens (n, p) a share `zeros` has weight 0, and the mean weight is 1.

        Each projection is standardised, then all are shifted. A weight is 0 where every projection is <= 0, so the
        shift is a quantile of the largest one. A random start depends on the sign of the merge: one small model in five
        would start with all weights 0.
        """
        raise NotImplementedError


class LayerHead(LearnedHead):
    r"""Learned over all layers: m_t = ReLU(sum_l c_l ReLU(w_l . LayerNorm(h_l) + b_l)).

    One linear + ReLU for each layer, merged by a linear (no bias) + ReLU (arXiv 2410.05102, Section 2.3). The LayerNorm
    shared by all layers is in the authors' code, not in the paper; it makes the head independent of the scale of a
    model's states.
    """

    def __init__(self, num_layers: int, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__(num_layers, width, inner=inner, binary=binary)
        self.norm = nn.LayerNorm(width)
        self.layer = nn.ModuleList(_projection(width, inner) for _ in range(num_layers))
        self.merge = nn.Linear(num_layers, 1, bias=False)
        nn.init.constant_(self.merge.weight, 1 / num_layers)

    def project(self, layer: int, states: LayerStates) -> Tensor:
        """The norm's gain and shift are folded into the linear map, so that all heads share the normalised states."""
        first, *others = _linears(self.layer[layer])
        bias = first.bias + first.weight @ self.norm.bias
        projection = F.linear(states.normalized.to(first.weight.dtype), first.weight * self.norm.weight, bias)
        for linear in others:
            projection = linear(projection)
        return projection

    def merge_projections(self, projections: Tensor) -> Tensor:
        return F.relu(self.merge(F.relu(projections)))[..., 0]

    @torch.no_grad()
    def initialize(self, projections: Tensor, zeros: float) -> None:
        shifted = _standardise_and_shift(self.layer, projections, zeros)
        if not self.binary:
            self.merge.weight.div_(_divisor(self.merge_projections(shifted).mean()))


class LastHead(LearnedHead):
    """Learned over the last layer only: m_t = ReLU(w . h_L + b), without a LayerNorm."""

    def __init__(self, num_layers: int, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__(num_layers, width, inner=inner, binary=binary)
        self.layer = _projection(width, inner)

    def project(self, layer: int, states: LayerStates) -> Tensor | None:
        if layer < self.num_layers - 1:
            return None
        return self.layer(states.values.to(next(self.parameters()).dtype))

    def merge_projections(self, projections: Tensor) -> Tensor:
        return F.relu(projections)[..., 0]

    @torch.no_grad()
    def initialize(self, projections: Tensor, zeros: float) -> None:
        weight = self.merge_projections(_standardise_and_shift([self.layer], projections, zeros))
        if not self.binary:
            last, divisor = _linears(self.layer)[-1], _divisor(weight.mean())
            last.weight.div_(divisor)
            last.bias.div_(divisor)


def _projection(width: int, inner: int | None) -> nn.Module:
    if inner is None:
        return nn.Linear(width, 1)
    return nn.Sequential(nn.Linear(width, inner), nn.Linear(inner, 1))


def _linears(projection: nn.Module) -> list[nn.Linear]:
    return [module for module in projection.modules() if isinstance(module, nn.Linear)]


def _standardise_and_shift(maps: Iterable[nn.Module], projections: Tensor, zeros: float) -> Tensor:
    """Change the maps with outputs `projections` (n, p) as `LearnedHead.initialize` says; returns the new outputs."""
    scale, mean = _divisor(projections.std(0, correction=0)), projections.mean(0)
    standard = (projections - mean) / scale
    shift = -_separating_quantile(standard.amax(-1), zeros)
    for index, module in enumerate(maps):
        linear = _linears(module)[-1]
        linear.weight.div_(scale[index])
        linear.bias.copy_((linear.bias - mean[index]) / scale[index] + shift)
    return standard + shift


def _separating_quantile(values: Tensor, share: float) -> Tensor:
    """A quantile of (n,) values that equals none of them but the largest: rounding would decide that token's weight."""
    place = share * (len(values) - 1)
    if place == int(place) < len(values) - 1:
        return values.sort().values[int(place) :][:2].mean()
    return torch.quantile(values, share)


def _divisor(spread: Tensor) -> Tensor:
    """The spread, or 1 where it is too small to divide by: for one token, or where all are equal."""
    return torch.where(spread > 1e-4, spread, 1.0)


def _straight_through(weight: Tensor) -> Tensor:
    """1 where weight > 0 else 0, with the gradient of `weight`."""
    return weight + ((weight > 0).to(weight.dtype) - weight).detach()
