"""Preference losses: one pure function each, over the token terms of the chosen and the rejected side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """One response of each pair, token by token; every tensor is (b, t), b = pair, t = response position.

    logps, ref_logps: log-probs of the tokens, nats. reverse_kl = KL(policy || reference) and forward_kl =
    KL(reference || policy) at each position, nats, >= 0. valid: True on response tokens. m_u, m_d: token weights
    on the reward and on the KL; a loss without masks does not look at them. None: not computed, as no loss asks for it.
    """

    logps: Tensor
    ref_logps: Tensor | None
    reverse_kl: Tensor | None
    forward_kl: Tensor | None
    valid: Tensor
    m_u: Tensor | None = None
    m_d: Tensor | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and value.shape != self.valid.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, valid has {tuple(self.valid.shape)}")
        if self.valid.dtype != torch.bool or self.valid.ndim != 2:
            raise ValueError("valid must be a boolean tensor (pairs, tokens)")

    @property
    def logratio(self) -> Tensor:
        """(b, t) log pi - log ref."""
        return self.logps - self.ref_logps


@dataclass(frozen=True)
class PairLoss:
    """Unreduced values (b,): the loss, and the two rewards it was computed from (attached to the graph)."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor

    def __post_init__(self):
        if self.chosen_reward.shape != self.rejected_reward.shape:
            shapes = tuple(self.chosen_reward.shape), tuple(self.rejected_reward.shape)
            raise ValueError(f"{shapes[0]} chosen and {shapes[1]} rejected responses: pairs have one of each")


def weighted_sum(values: Tensor, weight: Tensor | None, valid: Tensor) -> Tensor:
    """(b, t) -> (b,): sum over response tokens of weight * value, weight 1 if None.

    What lies outside `valid` never enters, not even its gradient: `where` comes before the product, as 0 * nan is nan.
    """
    values = values.where(valid, 0.0)
    return (values if weight is None else values * weight.where(valid, 0.0)).sum(-1)


def _sum(values: Tensor, side: Side) -> Tensor:
    return weighted_sum(values, None, side.valid)


def _mean(values: Tensor, side: Side) -> Tensor:
    return _sum(values, side) / side.valid.sum(-1)


def dpo(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-log sigmoid(beta h), h = (log pi/ref of the chosen) - (of the rejected), summed over tokens.

    Rewards beta * sum log pi/ref. Source: Rafailov et al. 2023, Eq. 7.
    """
    r_c, r_r = (beta * _sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def cdpo(chosen: Side, rejected: Side, *, beta: float, label_smoothing: float) -> PairLoss:
    r"""-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), e = `label_smoothing`: labels are wrong with chance e.

    Source: Mitchell 2023, "A note on DPO with noisy preferences"; the eric-mitchell repository.
    """
    r_c, r_r = (beta * _sum(side.logratio, side) for side in (chosen, rejected))
    right, wrong = F.logsigmoid(r_c - r_r), F.logsigmoid(r_r - r_c)
    return PairLoss(-(1 - label_smoothing) * right - label_smoothing * wrong, r_c, r_r)


def robust(chosen: Side, rejected: Side, *, beta: float, label_smoothing: float) -> PairLoss:
    r"""[-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)] / (1 - 2 e), 0 <= e < 1/2: unbiased if labels flip.

    Source: Chowdhury et al. 2024, Eq. 12; TRL's `robust`.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    r_c, r_r = (beta * _sum(side.logratio, side) for side in (chosen, rejected))
    right, wrong = F.logsigmoid(r_c - r_r), F.logsigmoid(r_r - r_c)
    loss = (-(1 - label_smoothing) * right + label_smoothing * wrong) / (1 - 2 * label_smoothing)
    return PairLoss(loss, r_c, r_r)


def hinge(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""max(0, 1 - beta h). Source: SLiC-HF (Zhao et al. 2023) with log-ratios; TRL's `hinge`."""
    r_c, r_r = (beta * _sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(torch.relu(1 - (r_c - r_r)), r_c, r_r)


def ipo(chosen: Side, rejected: Side, *, beta: float, reduction: Literal["sum", "mean"]) -> PairLoss:
    r"""(h - 1 / (2 beta))^2, h from sums over tokens (`sum`: the paper) or from per-token means (`mean`: TRL).

    Rewards beta * (sum or mean of log pi/ref). Source: Azar et al. 2023, Eq. 17.
    """
    reduce = {"sum": _sum, "mean": _mean}[reduction]
    h_c, h_r = (reduce(side.logratio, side) for side in (chosen, rejected))
    return PairLoss((h_c - h_r - 1 / (2 * beta)) ** 2, beta * h_c, beta * h_r)


def simpo(chosen: Side, rejected: Side, *, beta: float, gamma: float) -> PairLoss:
    r"""-log sigmoid(beta (mean log pi of the chosen - of the rejected) - gamma), reference-free.

    `gamma` is absolute, as in the SparsePO paper; the official code states gamma / beta. Rewards beta * mean log pi.
    Source: Meng et al. 2024, Eq. 6.
    """
    r_c, r_r = (beta * _mean(side.logps, side) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - r_r - gamma), r_c, r_r)


def dpop(chosen: Side, rejected: Side, *, beta: float, penalty: float) -> PairLoss:
    r"""-log sigmoid(beta [h - penalty * max(0, log ref/pi of the chosen)]): DPO that keeps the chosen response likely.

    The chosen reward carries the penalty: beta [r_c - penalty * max(0, -r_c)]. Source: Pal et al. 2024 (Smaug), Eq. 3.
    """
    h_c, h_r = (_sum(side.logratio, side) for side in (chosen, rejected))
    r_c, r_r = beta * (h_c - penalty * torch.relu(-h_c)), beta * h_r
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def tdpo1(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-log sigmoid(beta [h - (F_r - F_c)]), F = sum_t KL(ref || pi); both F carry gradient.

    Rewards beta (sum log pi/ref + F). Source: Zeng et al. 2024 (TDPO), Eq. 13.
    """
    r_c, r_r = (beta * (_sum(side.logratio, side) + _sum(side.forward_kl, side)) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def tdpo2(chosen: Side, rejected: Side, *, beta: float, alpha: float) -> PairLoss:
    r"""-log sigmoid(beta [h - alpha (F_r - stopgrad F_c)]), F = sum_t KL(ref || pi).

    Rewards beta (sum log pi/ref + alpha F), whose difference is the argument of the sigmoid (the official code logs
    alpha = 1 whatever it trains with). Source: Zeng et al. 2024 (TDPO), Eq. 17.
    """
    kl_c, kl_r = _sum(chosen.forward_kl, chosen).detach(), _sum(rejected.forward_kl, rejected)
    r_c = beta * (_sum(chosen.logratio, chosen) + alpha * kl_c)
    r_r = beta * (_sum(rejected.logratio, rejected) + alpha * kl_r)
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def sparsepo(chosen: Side, rejected: Side, *, beta: float, form: Literal["paper", "released"]) -> PairLoss:
    r"""-log sigmoid(u - delta), the reward weighted by m_u and the KL by m_d, token by token.

    u = beta [sum_t m_u log pi/ref]_chosen - [..]_rejected. The two published forms differ in the KL:

        paper:     delta = beta ([sum_t m_d KL(pi || ref)]_chosen - [..]_rejected)       arXiv 2410.05102, Eq. 6-8
        released: -delta = beta ([sum_t m_d KL(ref || pi)]_chosen - [..]_rejected)    HEBO/SparsePO, sparse_trainer.py

    With all weights 1 the released form is TDPO v1. Weights of None are 1. Rewards beta (sum m_u log pi/ref -+ sum m_d
    KL): their difference is the argument of the sigmoid in either form.
    """
    reward = {"paper": _sparse_reward_paper, "released": _sparse_reward_released}[form]
    r_c, r_r = (beta * reward(side) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def _sparse_reward_paper(side: Side) -> Tensor:
    u = weighted_sum(side.logratio, side.m_u, side.valid)
    return u - weighted_sum(side.reverse_kl, side.m_d, side.valid)


def _sparse_reward_released(side: Side) -> Tensor:
    u = weighted_sum(side.logratio, side.m_u, side.valid)
    return u + weighted_sum(side.forward_kl, side.m_d, side.valid)


LOSSES: dict[str, Callable[..., PairLoss]] = {
    "dpo": dpo,
    "cdpo": cdpo,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "simpo": simpo,
    "dpop": dpop,
    "tdpo1": tdpo1,
    "tdpo2": tdpo2,
    "sparsepo": sparsepo,
}
"""By the name in a row of `METHODS`; a run depends on the code of its own row alone."""
