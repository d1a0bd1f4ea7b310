"""Mask heads: modules that give each response token a weight, from what the reference computes for the text before it.

The built-in heads read features at the position that predicts a token (position t - 1 weighs token t), never those of
the token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class MaskInputs:
    """What mask heads read: (s, t) grids of s responses, the chosen ones first, t tokens in the longest one.

    valid: True on response tokens; other cells must have no effect.
    token_ids: the response tokens themselves, 0 in other cells.
    projections: learned head by name -> (s, t, p), what it computed from the reference's hidden states, layer by layer.
    activations: site -> one grid for each activation, its mean over the features; see `models.activations`.
    weights: instead of `activations`, the weights that were computed from them before and stored.
    values: numbers that the pairs have for each token.
    logratio: log pi - log ref of each token, without gradient.
    entropy: of the reference's distribution that each token was predicted by, nats, without gradient.
    """

    valid: Tensor
    token_ids: Tensor | None = None
    projections: Mapping[str, Tensor] = field(default_factory=dict)
    activations: Mapping[str, Sequence[Tensor]] | None = None
    weights: Tensor | None = None
    values: Tensor | None = None
    logratio: Tensor | None = None
    entropy: Tensor | None = None


class MaskHead(nn.Module):
    """Abstract: MaskInputs -> weights (s, t). `reads` says which of the inputs the head needs.

    can_be_negative: whether its weights can be below 0.
    """

    reads: Literal["hidden_states", "activations", "values", "logratio", "entropy", "nothing"] = "nothing"
    can_be_negative = False

    def forward(self, inputs: MaskInputs) -> Tensor:
        raise NotImplementedError
