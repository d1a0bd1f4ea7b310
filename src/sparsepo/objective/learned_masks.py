"""Mask heads that are trained: one projection of the reference's hidden states a layer, or of the last layer."""

from collections.abc import Iterable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepo.objective.masks import MaskHead, MaskInputs


class State:
    """A layer's states (..., d); `standard` is computed once, whatever number of heads look at it."""

    def __init__(self, values: Tensor):
        self.values = values.to(torch.promote_types(values.dtype, torch.float32))

    @cached_property
    def standard(self) -> Tensor:
        """Mean 0 and variance 1 over the features."""
        return F.layer_norm(self.values, self.values.shape[-1:])


class LearnedHead(MaskHead):
    """Abstract: a head whose weight is a ReLU over learned projections of the states, each of one layer alone.

    So a layer's states can be forgotten as soon as they are projected.
    """

    looks_at = "states"
    binary: bool

    def project(self, layer: int, depth: int, state: State) -> Tensor | None:
        """(..., 1): what the head says of layer number `layer` of 0 .. depth - 1, before any ReLU; None: nothing."""
        raise NotImplementedError

    def merged(self, projected: Tensor) -> Tensor:
        """(..., p) -> (...): the weight >= 0 that these projections make, before it is made binary."""
        raise NotImplementedError

    def forward(self, views: MaskInputs) -> Tensor:
        return self.weigh(self.projections(views))

    def weigh(self, projected: Tensor) -> Tensor:
        """(..., p) -> (...): the weight."""
        weight = self.merged(projected)
        return _straight_through(weight) if self.binary else weight

    def projections(self, views: MaskInputs) -> Tensor:
        """(s, t, p): every projection, before any ReLU."""
        depth = len(views.states)
        found = [self.project(layer, depth, State(state)) for layer, state in enumerate(views.states)]
        return torch.cat([projected for projected in found if projected is not None], -1)

    def start(self, raw: Tensor, zeros: float) -> None:
        """Set the weights so that on the tokens of `raw` (n, p) a share `zeros` weighs 0, and the mean weight is 1.

        Each projection is standardised, then all are shifted. A weight is 0 where every projection is <= 0, so the
        shift is a quantile of the largest. Left to chance the sign of the merge decides, and one small model in five
        starts with no live weight at all.
        """
        raise NotImplementedError


class LayerHead(LearnedHead):
    r"""Learned over all layers: m_t = ReLU(sum_l c_l ReLU(w_l . LayerNorm(h_l) + b_l)).

    One linear + ReLU a layer, merged by a linear (no bias) + ReLU (arXiv 2410.05102, Eq. 9-10). The LayerNorm shared by
    all layers is the authors' code, not their paper; it makes the head independent of the scale of a model's states.
    `inner` puts a hidden width in each layer's map, two feed-forward layers with no nonlinearity between (authors'
    code). `binary`: the weight is 1 where the merged value is positive, with a straight-through gradient.
    """

    def __init__(self, layers: int, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = nn.ModuleList(_projection(width, inner) for _ in range(layers))
        self.merge = nn.Linear(layers, 1, bias=False)
        nn.init.constant_(self.merge.weight, 1 / layers)
        self.binary = binary

    def project(self, layer: int, depth: int, state: State) -> Tensor:
        """The norm's gain and shift go into the linear map, so that one standardised state serves every head."""
        if depth != len(self.layer):
            raise ValueError(f"a head for {len(self.layer)} layers cannot look at a model of {depth}")
        first, *rest = _linears(self.layer[layer])
        bias = first.bias + first.weight @ self.norm.bias
        found = F.linear(state.standard.to(first.weight.dtype), first.weight * self.norm.weight, bias)
        for linear in rest:
            found = linear(found)
        return found

    def merged(self, projected: Tensor) -> Tensor:
        return F.relu(self.merge(F.relu(projected)))[..., 0]

    @torch.no_grad()
    def start(self, raw: Tensor, zeros: float) -> None:
        live = _start(self.layer, raw, zeros)
        if not self.binary:
            self.merge.weight.div_(_scale_of(self.merged(live).mean()))


class LastHead(LearnedHead):
    """Learned over the last layer only: m_t = ReLU(w . h_L + b); `inner` and `binary` as in LayerHead, no LayerNorm."""

    def __init__(self, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__()
        self.layer = _projection(width, inner)
        self.binary = binary

    def project(self, layer: int, depth: int, state: State) -> Tensor | None:
        return self.layer(state.values.to(next(self.parameters()).dtype)) if layer == depth - 1 else None

    def merged(self, projected: Tensor) -> Tensor:
        return F.relu(projected)[..., 0]

    @torch.no_grad()
    def start(self, raw: Tensor, zeros: float) -> None:
        live = self.merged(_start([self.layer], raw, zeros))
        if not self.binary:
            last, scale = _linears(self.layer)[-1], _scale_of(live.mean())
            last.weight.div_(scale)
            last.bias.div_(scale)


def _projection(width: int, inner: int | None) -> nn.Module:
    if inner is None:
        return nn.Linear(width, 1)
    return nn.Sequential(nn.Linear(width, inner), nn.Linear(inner, 1))


def _linears(projection: nn.Module) -> list[nn.Linear]:
    return [module for module in projection.modules() if isinstance(module, nn.Linear)]


def _start(projections: Iterable[nn.Module], raw: Tensor, zeros: float) -> Tensor:
    """Standardise and shift projections with outputs `raw` (n, p) as LearnedHead.start says; what they give then."""
    scale, mean = _scale_of(raw.std(0, correction=0)), raw.mean(0)
    standard = (raw - mean) / scale
    shift = -_between(standard.amax(-1), zeros)
    for index, projection in enumerate(projections):
        linear = _linears(projection)[-1]
        linear.weight.div_(scale[index])
        linear.bias.copy_((linear.bias - mean[index]) / scale[index] + shift)
    return standard + shift


def _between(values: Tensor, share: float) -> Tensor:
    """A quantile of (n,) values; none of the values below the largest, as rounding would decide that one's weight."""
    place = share * (len(values) - 1)
    if place == int(place) < len(values) - 1:
        return values.sort().values[int(place) :][:2].mean()
    return torch.quantile(values, share)


def _scale_of(spread: Tensor) -> Tensor:
    """What to divide by: 1 where there is nothing to tell apart (one token, or all alike), as 1 / 0 is no weight."""
    return torch.where(spread > 1e-4, spread, 1.0)


def _straight_through(weight: Tensor) -> Tensor:
    """1 where weight > 0 else 0, with the gradient of `weight`."""
    return weight + ((weight > 0).to(weight.dtype) - weight).detach()
