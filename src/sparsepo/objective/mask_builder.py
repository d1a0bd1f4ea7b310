"""The masks of a method: one head for both weights or one for each, built by name."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsepo.methods.method import MASKS
from sparsepo.objective.learned_masks import LayerStates, LearnedHead
from sparsepo.objective.masks import MaskHead, MaskInputs
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.user_code import load_object

SHARES = {"common": ("common",), "independent": ("u", "d"), "reward_only": ("u",), "kl_only": ("d",)}
"""Which of the two weights have a head: one head for both, one each, or one of them."""


class Masks(nn.Module):
    """The two weights of a method, m_u on the reward and m_d on the KL, and their L1 penalty.

    `heads` maps `common` to the one head of both, or `u` and `d` to a head each; without a head the weight is 1.
    init: how learned heads start, `ones` or `authors`, see `calibrate`. normalise: `mean` where a loss reads the
    weights divided by their mean over the response tokens of a step; the penalty is on the weights themselves.
    """

    def __init__(
        self, heads: Mapping[str, MaskHead], *, l1_u: float, l1_d: float, init: str = "ones", normalise: str = "none"
    ):
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.l1_u, self.l1_d, self.init, self.normalise = l1_u, l1_d, init, normalise

    @property
    def reads(self) -> set[str]:
        """What the heads read, see `MaskHead.reads`."""
        return {head.reads for head in self.heads.values()}

    @property
    def can_be_negative(self) -> bool:
        return any(head.can_be_negative for head in self.heads.values())

    @property
    def has_parameters(self) -> bool:
        return any(True for _ in self.parameters())

    def forward(self, inputs: MaskInputs) -> tuple[Tensor, Tensor]:
        """m_u and m_d, each (s, t)."""
        weights = {
            name: checked_weights(
                head, head(inputs.projections[name] if name in inputs.projections else inputs), inputs.valid
            )
            for name, head in self.heads.items()
        }
        if "common" in weights:
            return weights["common"], weights["common"]
        ones = torch.ones(inputs.valid.shape, device=inputs.valid.device)
        return weights.get("u", ones), weights.get("d", ones)

    def project(self, layer: int, num_layers: int, hidden_states: Tensor) -> dict[str, Tensor]:
        """The projections of a layer's states (..., d) by all learned heads that read it: name -> (..., 1).

        Raises ValueError for a model of another number of layers than the heads.
        """
        states, heads = LayerStates(hidden_states), self._learned_heads()
        for head in heads.values():
            if head.num_layers != num_layers:
                raise ValueError(f"a mask head for {head.num_layers} layers cannot read a model of {num_layers} layers")
        projections = {name: head.project(layer, states) for name, head in heads.items()}
        return {name: projection for name, projection in projections.items() if projection is not None}

    def _learned_heads(self) -> dict[str, LearnedHead]:
        return {name: head for name, head in self.heads.items() if isinstance(head, LearnedHead)}

    @torch.no_grad()
    def calibrate(self, batches: Iterable[MaskInputs]) -> None:
        """The start of every learned head: weights near 1 on the tokens of these batches, see
        `LearnedHead.center_on_one`, or as published, see `LearnedHead.draw_as_published`."""
        heads = self._learned_heads()
        if self.init == "authors":
            for head in heads.values():
                head.draw_as_published()
        if self.init == "authors" or not heads:
            return
        batch_projections = [{name: inputs.projections[name][inputs.valid] for name in heads} for inputs in batches]
        for name, head in heads.items():
            head.center_on_one(torch.cat([projections[name] for projections in batch_projections]))

    def penalty(self, m_u: Tensor, m_d: Tensor, valid: Tensor) -> Tensor:
        """(s, t) -> (s,): l1_u sum |m_u| + l1_d sum |m_d| over response tokens, of the weights that have a head.

        A common mask pays the mean of the two coefficients once, as in the authors' code.
        """
        coefficients = {"u": self.l1_u, "d": self.l1_d}
        if "common" in self.heads:
            coefficients = {"u": (self.l1_u + self.l1_d) / 2}
        norms = {"u": m_u.abs().where(valid, 0.0).sum(-1), "d": m_d.abs().where(valid, 0.0).sum(-1)}
        with_head = [name for name in coefficients if name in self.heads or "common" in self.heads]
        return torch.stack([coefficients[name] * norms[name] for name in with_head]).sum(0)


def checked_weights(head: MaskHead, weights: Any, valid: Tensor) -> Tensor:
    """The weights of a head, in floating point. Raises UserError for what a head of the user must not return."""
    if type(head).__module__.startswith("sparsepo."):
        return weights
    name = f"mask {type(head).__name__}"
    if not isinstance(weights, Tensor) or weights.shape != valid.shape:
        kind = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise UserError(f"{name}: forward returned {kind}; a tensor of the shape of inputs.valid, {tuple(valid.shape)}")
    weights = weights if weights.is_floating_point() else weights.float()
    least = weights.detach().where(valid, 0.0).min()
    if not (weights.detach().isfinite() | ~valid).all():
        raise UserError(f"{name}: forward returned a weight that is not finite")
    if least < 0 and not head.can_be_negative:
        raise UserError(
            f"{name}: forward returned a weight of {least:.3g}; write can_be_negative = True if that is meant"
        )
    return weights


def build_masks(num_layers: int, width: int, *, mask: str, share: str, **parameters: Any) -> Masks:
    """Masks for a reference with `num_layers` hidden states of `width` features.

    parameters: all that the mask reads, see `MASKS`; their defaults are in the table of methods. Raises ValueError for
    an unknown mask or share, naming the allowed ones, and TypeError for a missing parameter.
    """
    if mask not in MASKS:
        raise ValueError(f"mask '{mask}' is unknown; allowed: {', '.join(MASKS)}")
    if share not in SHARES:
        raise ValueError(f"mask share '{share}' is unknown; allowed: {', '.join(SHARES)}")
    row = MASKS[mask]
    head_class = load_object(row.head)
    if head_class.reads != row.reads:
        raise UserError(f"mask '{mask}' reads '{row.reads}' by its row, and {row.head} reads '{head_class.reads}'")
    l1 = {name: parameters.pop(name, 0.0) for name in ("l1_u", "l1_d")}  # a mask that does not read one pays nothing
    options = {name: parameters.pop(name) for name in ("init", "normalise") if name in parameters}
    size = {"num_layers": num_layers, "width": width} if row.is_learned else {}
    heads = {name: head_class(**size, **row.options, **parameters) for name in SHARES[share]}
    return Masks(heads, **l1, **options)
