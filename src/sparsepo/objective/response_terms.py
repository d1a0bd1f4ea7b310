"""Per-token terms of one response of each pair, the input of every loss, and what a loss returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """The chosen or the rejected response of each pair; tensors are (b, t), b = pair, t = response position.

    logps, ref_logps: log-probs of the tokens, nats. reverse_kl = KL(policy || reference) and forward_kl =
    KL(reference || policy) at each position, nats, >= 0. valid: True on response tokens. m_u, m_d: token weights
    on the reward and on the KL, 1 where None. values: numbers that the pairs have for each token; score: (b,), one for
    each response. None: not computed or not given, as no loss needs it. Raises ValueError where shapes differ.
    """

    logps: Tensor
    ref_logps: Tensor | None
    reverse_kl: Tensor | None
    forward_kl: Tensor | None
    valid: Tensor
    m_u: Tensor | None = None
    m_d: Tensor | None = None
    values: Tensor | None = None
    score: Tensor | None = None

    def __post_init__(self):
        for name, value in self.by_token.items():
            if value.shape != self.valid.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, valid has {tuple(self.valid.shape)}")
        if self.valid.dtype != torch.bool or self.valid.ndim != 2:
            raise ValueError("valid must be a boolean tensor (pairs, tokens)")

    @property
    def by_token(self) -> dict[str, Tensor]:
        """The (b, t) tensors that are there, by name."""
        by_token = {name: value for name, value in vars(self).items() if name not in ("valid", "score")}
        return {name: value for name, value in by_token.items() if value is not None}

    @property
    def logratio(self) -> Tensor:
        """(b, t) log pi - log ref."""
        return self.logps - self.ref_logps

    def detach(self) -> "Side":
        """Without gradients."""
        return Side(**{name: None if value is None else value.detach() for name, value in vars(self).items()})


@dataclass(frozen=True)
class PairLoss:
    """Unreduced (b,) values: the loss, and the two rewards that it was computed from, with their graph.

    Raises ValueError unless there is one chosen response for each rejected one.
    """

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor

    def __post_init__(self):
        if self.chosen_reward.shape != self.rejected_reward.shape:
            shapes = tuple(self.chosen_reward.shape), tuple(self.rejected_reward.shape)
            raise ValueError(f"{shapes[0]} chosen and {shapes[1]} rejected responses: pairs have one of each")


def weighted_sum(values: Tensor, weight: Tensor | None, valid: Tensor) -> Tensor:
    """(b, t) -> (b,): sum over response tokens of weight * value, weight 1 if None.

    Values outside `valid` have no effect, not even on gradients: `where` comes before the product, as 0 * nan is nan.
    """
    values = values.where(valid, 0.0)
    return (values if weight is None else values * weight.where(valid, 0.0)).sum(-1)


def reward_sum(values: Tensor, side: Side) -> Tensor:
    """(b,): sum_t m_u v_t over the response; without a mask the plain sum."""
    return weighted_sum(values, side.m_u, side.valid)


MIN_WEIGHT = 1e-3
"""The sum of a response's weights below which the plain mean replaces the weighted one, little by little."""


def reward_mean(values: Tensor, side: Side) -> Tensor:
    r"""(b,): the mean of v_t over the response with the weights m_u >= 0; without a mask the plain mean.

        (sum_t m_u v_t + r mean_t v_t) / (sum_t m_u + r),  r = max(0, MIN_WEIGHT - sum_t m_u)

    A mean over no token is the plain mean: with 0 a response without weights would have probability 1. As the weights
    of a response go to 0 its mean goes there without a jump, whichever weight is the last.
    """
    plain = weighted_sum(values, None, side.valid) / side.valid.sum(-1)
    if side.m_u is None:
        return plain
    weight = side.m_u.where(side.valid, 0.0).sum(-1)
    rest = (MIN_WEIGHT - weight).clamp_min(0.0)
    return (reward_sum(values, side) + rest * plain) / (weight + rest)


def kl_sum(values: Tensor, side: Side) -> Tensor:
    """(b,): sum_t m_d v_t over the response; without a mask the plain sum."""
    return weighted_sum(values, side.m_d, side.valid)
