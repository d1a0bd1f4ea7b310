"""Mask heads: modules that give each response token a weight, from what the reference model makes of the text so far.

A head sees features at the position that predicts a token (t - 1 weighs token t), so it never sees the token itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class MaskInputs:
    """What a mask head may look at, taken from the reference at the positions that predict response tokens.

    states: one (s, t, d) tensor a layer, 1..L, the last after the final norm (the embedding output is not among them).
    projected: instead of states, what each learned head made of them layer by layer: name -> (s, t, p).
    weights: instead of all else, the weight (s, t) that a head without parameters gave before.
    activations: kind -> one (s, t) tensor a module, the mean over the features of what that module computed.
    values: (s, t) numbers that came with the pairs; chosen responses are the first half of s.
    logratio: (s, t) log pi - log ref of each token, without gradient; for heads that look at the policy.
    valid: (s, t) True on response tokens; what lies elsewhere must not matter.
    """

    valid: Tensor
    states: Sequence[Tensor] = ()
    activations: Mapping[str, Sequence[Tensor]] | None = None
    projected: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None
    values: Tensor | None = None
    logratio: Tensor | None = None


class MaskHead(nn.Module):
    """Abstract: views -> weights (s, t). `looks_at` says which view the head needs."""

    looks_at: Literal["states", "activations", "values", "policy", "nothing"] = "nothing"

    def forward(self, views: MaskInputs) -> Tensor:
        raise NotImplementedError
