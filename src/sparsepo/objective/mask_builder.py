"""The masks of a method: one head for both weights or one for each, built by name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

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
from sparsepo.objective.learned_masks import LastHead, LayerHead, LayerStates, LearnedHead
from sparsepo.objective.masks import MaskHead, MaskInputs

SHARES = {"common": ("common",), "independent": ("u", "d"), "reward_only": ("u",), "kl_only": ("d",)}
"""Which of the two weights have a head: one head for both, one each, or one of them."""


class Masks(nn.Module):
    """The two weights of a method, m_u on the reward and m_d on the KL, and their L1 penalty.

    `heads` maps `common` to the one head of both, or `u` and `d` to a head each; without a head the weight is 1.
    `init_sparsity`: the share of tokens whose weight is 0 after `calibrate`, for learned heads.
    """

    def __init__(self, heads: Mapping[str, MaskHead], *, l1_u: float, l1_d: float, init_sparsity: float | None = None):
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.l1_u, self.l1_d, self.init_sparsity = l1_u, l1_d, init_sparsity

    @property
    def reads(self) -> set[str]:
        """What the heads read, see `MaskHead.reads`."""
        return {head.reads for head in self.heads.values()}

    @property
    def has_parameters(self) -> bool:
        return any(True for _ in self.parameters())

    def forward(self, inputs: MaskInputs) -> tuple[Tensor, Tensor]:
        """m_u and m_d, each (s, t)."""
        weights = {name: head(inputs.projections.get(name, inputs)) for name, head in self.heads.items()}
        if "common" in weights:
            return weights["common"], weights["common"]
        ones = torch.ones(inputs.valid.shape, device=inputs.valid.device)
        return weights.get("u", ones), weights.get("d", ones)

    def project(self, layer: int, num_layers: int, hidden_states: Tensor) -> dict[str, Tensor]:
        """The projections of a layer's states (..., d) by all learned heads that read it: name -> (..., 1)."""
        states = LayerStates(hidden_states)
        projections = {name: head.project(layer, num_layers, states) for name, head in self._learned_heads().items()}
        return {name: projection for name, projection in projections.items() if projection is not None}

    def _learned_heads(self) -> dict[str, LearnedHead]:
        return {name: head for name, head in self.heads.items() if isinstance(head, LearnedHead)}

    @torch.no_grad()
    def calibrate(self, batches: Iterable[MaskInputs]) -> None:
        """Initialise every learned head on the tokens of these batches, see `LearnedHead.initialize`."""
        heads = self._learned_heads()
        if not heads:
            return
        batch_projections = [{name: inputs.projections[name][inputs.valid] for name in heads} for inputs in batches]
        for name, head in heads.items():
            head.initialize(torch.cat([projections[name] for projections in batch_projections]), self.init_sparsity)

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


HEADS: dict[str, Callable[..., MaskHead]] = {
    "layers": lambda num_layers, width, **_: LayerHead(num_layers, width),
    "last": lambda width, **_: LastHead(width),
    "feed_forward_layers": lambda num_layers, width, **_: LayerHead(num_layers, width, inner=200),
    "feed_forward_last": lambda width, **_: LastHead(width, inner=200),
    "binary_layers": lambda num_layers, width, **_: LayerHead(num_layers, width, binary=True),
    "binary_last": lambda width, **_: LastHead(width, binary=True),
    "activations": lambda activation_sites, normalisation, **_: ActivationHead(activation_sites, normalisation),
    "given": lambda **_: GivenHead(),
    "selected": lambda k_chosen, k_rejected, **_: SelectedHead(k_chosen, k_rejected),
    "excess": lambda k_chosen, k_rejected, **_: ExcessHead(k_chosen, k_rejected),
    "random": lambda **_: RandomHead(),
    "uniform": lambda **_: UniformHead(),
}
"""By the name that a config gives; the code version of a run counts its own row only."""


def build_masks(num_layers: int, width: int, *, mask: str, share: str, **parameters: Any) -> Masks:
    """Masks for a reference with `num_layers` hidden states of `width` features.

    parameters: all that the mask reads, see `MASKS`; their defaults are in the table of methods. Raises ValueError for
    an unknown mask or share, naming the allowed ones, and TypeError for a missing parameter.
    """
    if mask not in HEADS:
        raise ValueError(f"mask '{mask}' is unknown; allowed: {', '.join(HEADS)}")
    if share not in SHARES:
        raise ValueError(f"mask share '{share}' is unknown; allowed: {', '.join(SHARES)}")
    heads = {name: HEADS[mask](num_layers=num_layers, width=width, **parameters) for name in SHARES[share]}
    l1 = {name: parameters.get(name, 0.0) for name in ("l1_u", "l1_d")}  # a mask that does not read one pays nothing
    return Masks(heads, **l1, init_sparsity=parameters.get("init_sparsity"))
