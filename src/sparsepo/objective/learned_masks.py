"""Mask heads that are trained: projections of the reference's hidden states, of all layers or of the last one."""

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepo.objective.masks import MaskHead

SPREAD = 0.5
"""How far the weights of calibration tokens lie from 1 at the start."""


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
    (authors' code). `binary`: the weight is 1 where it would be positive, else 0; its gradient is straight-through:
    that of the head without its ReLUs, so that a weight of 0 can come back.
    """

    reads = "hidden_states"

    def __init__(self, num_layers: int, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__()
        self.num_layers, self.binary = num_layers, binary

    def project(self, layer: int, states: LayerStates) -> Tensor | None:
        """(..., 1): the projection of layer 0 .. num_layers - 1, before any ReLU; None: the head does not read it."""
        raise NotImplementedError

    def merge_projections(self, projections: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """(..., p) -> (...): the weight before it is made binary, with ReLU or the identity as activation."""
        raise NotImplementedError

    def forward(self, projections: Tensor) -> Tensor:
        """(..., p) -> (...): the weight."""
        weight = self.merge_projections(projections, F.relu)
        if not self.binary:
            return weight
        linear = self.merge_projections(projections, nn.Identity())
        return (weight > 0).to(weight.dtype) + (linear - linear.detach())

    def outputs(self) -> list[nn.Linear]:
        """The linear map that each projection ends with."""
        raise NotImplementedError

    @torch.no_grad()
    def center_on_one(self, projections: Tensor) -> None:
        """Change the parameters so that the weights of these tokens (n, p) have mean 1 and lie within 1 +- `SPREAD`.

        No ReLU is at 0 there, so a gradient reaches every token. With a part of the tokens at 0, all positions that
        matter may be among them and never get a gradient: it happens in one or two runs of ten on small tasks.
        """
        mean = projections.mean(0)
        largest = (projections - mean).abs().amax(0)
        scale = SPREAD / torch.where(largest > 1e-4, largest, 1.0)  # for one token, or where all are equal
        for index, linear in enumerate(self.outputs()):
            linear.weight.mul_(scale[index])
            linear.bias.copy_((linear.bias - mean[index]) * scale[index] + 1)

    @torch.no_grad()
    def draw_as_published(self) -> None:
        """Draw the weights of all linear maps from N(0, 0.02), with biases 0, as the authors' code does.

        Weights of tokens are then small, and all 0 where every weight of the merge is negative: with probability 2^-L.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, 0.02)
                if module.bias is not None:
                    module.bias.zero_()


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

    def merge_projections(self, projections: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        return activation(self.merge(activation(projections)))[..., 0]

    def outputs(self) -> list[nn.Linear]:
        return [_linears(projection)[-1] for projection in self.layer]


class LastHead(LearnedHead):
    """Learned over the last layer only: m_t = ReLU(w . h_L + b), without a LayerNorm."""

    def __init__(self, num_layers: int, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__(num_layers, width, inner=inner, binary=binary)
        self.layer = _projection(width, inner)

    def project(self, layer: int, states: LayerStates) -> Tensor | None:
        if layer < self.num_layers - 1:
            return None
        return self.layer(states.values.to(next(self.parameters()).dtype))

    def merge_projections(self, projections: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        return activation(projections)[..., 0]

    def outputs(self) -> list[nn.Linear]:
        return [_linears(self.layer)[-1]]


def _projection(width: int, inner: int | None) -> nn.Module:
    if inner is None:
        return nn.Linear(width, 1)
    return nn.Sequential(nn.Linear(width, inner), nn.Linear(inner, 1))


def _linears(projection: nn.Module) -> list[nn.Linear]:
    return [module for module in projection.modules() if isinstance(module, nn.Linear)]
