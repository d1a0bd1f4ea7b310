"""The masks of a method: one head for both weights or one each, made by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sparsepo.objective.fixed_masks import (
    ActivationHead,
    ExcessHead,
    GivenHead,
    RandomHead,
    SelectedHead,
    UniformHead,
)
from sparsepo.objective.learned_masks import (
    LastHead,
    LayerHead,
    LearnedHead,
    State,
)
from sparsepo.objective.masks import MaskHead, MaskInputs


class Masks(nn.Module):
    """The two weights of a method, m_u on the reward and m_d on the KL, and what they cost.

    `heads` maps `common` to the one head of both, or `u` and `d` to a head each; a side without a head weighs 1.
    """

    def __init__(self, heads: Mapping[str, MaskHead], *, l1_u: float = 0.0, l1_d: float = 0.0, zeros: float = 0.25):
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.l1_u, self.l1_d, self.zeros = l1_u, l1_d, zeros

    @property
    def looks_at(self) -> set[str]:
        return {head.looks_at for head in self.heads.values()}

    @property
    def learned(self) -> bool:
        return any(True for _ in self.parameters())

    def forward(self, views: MaskInputs) -> tuple[Tensor, Tensor]:
        """m_u and m_d, each (s, t)."""
        weights = {name: self._weight(name, head, views) for name, head in self.heads.items()}
        if "common" in weights:
            return weights["common"], weights["common"]
        ones = torch.ones(views.valid.shape, device=views.valid.device)
        return weights.get("u", ones), weights.get("d", ones)

    def _weight(self, name: str, head: MaskHead, views: MaskInputs) -> Tensor:
        if head.looks_at == "activations" and views.weights is not None:
            return views.weights
        return head.weigh(views.projected[name]) if name in views.projected else head(views)

    def project(self, layer: int, depth: int, values: Tensor) -> dict[str, Tensor]:
        """What every learned head that looks at this layer makes of its states (..., d): name -> (..., 1)."""
        state = State(values)
        found = {name: head.project(layer, depth, state) for name, head in self._learned().items()}
        return {name: projected for name, projected in found.items() if projected is not None}

    def _learned(self) -> dict[str, LearnedHead]:
        return {name: head for name, head in self.heads.items() if isinstance(head, LearnedHead)}

    @torch.no_grad()
    def calibrate(self, batches: Iterable[MaskInputs]) -> None:
        """Start every learned head alive on these tokens, see LearnedHead.start; one batch of states at a time."""
        heads = self._learned()
        if not heads:
            return
        raw = [
            {
                name: (views.projected[name] if name in views.projected else head.projections(views))[views.valid]
                for name, head in heads.items()
            }
            for views in batches
        ]
        for name, head in heads.items():
            head.start(torch.cat([of[name] for of in raw]), self.zeros)

    def penalty(self, m_u: Tensor, m_d: Tensor, valid: Tensor) -> Tensor:
        """(s, t) -> (s,): l1_u sum |m_u| + l1_d sum |m_d| over response tokens, of the sides that have a head.

        A common mask pays the mean of the two coefficients once, as in the authors' code.
        """
        share = {"u": self.l1_u, "d": self.l1_d}
        if "common" in self.heads:
            share = {"u": (self.l1_u + self.l1_d) / 2}
        norms = {"u": m_u.abs().where(valid, 0.0).sum(-1), "d": m_d.abs().where(valid, 0.0).sum(-1)}
        sides = [side for side in share if side in self.heads or "common" in self.heads]
        return torch.stack([share[side] * norms[side] for side in sides]).sum(0)


HEADS: dict[str, Callable[..., MaskHead]] = {
    "layers": lambda layers, width, **_: LayerHead(layers, width),
    "last": lambda width, **_: LastHead(width),
    "feed_forward_layers": lambda layers, width, **_: LayerHead(layers, width, inner=200),
    "feed_forward_last": lambda width, **_: LastHead(width, inner=200),
    "binary_layers": lambda layers, width, **_: LayerHead(layers, width, binary=True),
    "binary_last": lambda width, **_: LastHead(width, binary=True),
    "activations": lambda activation_sites, normalisation, **_: ActivationHead(activation_sites, normalisation),
    "given": lambda **_: GivenHead(),
    "selected": lambda k_chosen, k_rejected, **_: SelectedHead(k_chosen, k_rejected),
    "excess": lambda k_chosen, k_rejected, **_: ExcessHead(k_chosen, k_rejected),
    "random": lambda **_: RandomHead(),
    "uniform": lambda **_: UniformHead(),
}
"""By the name a config gives them; a run depends on the code of its own row alone."""


def build_masks(
    layers: int,
    width: int,
    *,
    mask: str = "layers",
    share: str = "common",
    activation_sites: Sequence[str] = ("mlp", "attention", "residual"),
    normalisation: Literal["minmax", "zscore"] = "minmax",
    l1_u: float = 0.0,
    l1_d: float = 0.0,
    init_sparsity: float = 0.25,
    k_chosen: float = 0.3,
    k_rejected: float = 0.3,
) -> Masks:
    """Masks for a reference of `layers` layers of `width`. Raises ValueError naming the allowed masks and shares."""
    if mask not in HEADS:
        raise ValueError(f"mask '{mask}' is unknown; allowed: {', '.join(HEADS)}")
    sides = {"common": ("common",), "independent": ("u", "d"), "reward_only": ("u",), "kl_only": ("d",)}
    if share not in sides:
        raise ValueError(f"mask share '{share}' is unknown; allowed: {', '.join(sides)}")
    given = {"layers": layers, "width": width, "activation_sites": activation_sites, "normalisation": normalisation}
    given |= {"k_chosen": k_chosen, "k_rejected": k_rejected}
    made = {side: HEADS[mask](**given) for side in sides[share]}
    return Masks(made, l1_u=l1_u, l1_d=l1_d, zeros=init_sparsity)
