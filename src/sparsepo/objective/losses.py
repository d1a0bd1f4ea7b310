"""Preference losses: one pure function each, of the token terms of the chosen and the rejected side.

Each takes two `Side`s of (b, t) tensors and returns a `PairLoss` of unreduced (b,) values; log-probs, KL and rewards
are in nats. Sums and means over the tokens of a response are weighted by its masks where it has some.
"""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepo.objective.response_terms import PairLoss, Side, kl_sum, reward_mean, reward_sum, weighted_sum


def dpo(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-log sigmoid(beta h), h = (log pi/ref of the chosen) - (of the rejected), summed over tokens.

    Rewards beta * sum log pi/ref. Source: Rafailov et al. 2023, Eq. 7.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def cdpo(chosen: Side, rejected: Side, *, beta: float, label_smoothing: float) -> PairLoss:
    r"""-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), e = `label_smoothing`, the share of wrong labels.

    Source: Mitchell 2023, "A note on DPO with noisy preferences"; the eric-mitchell repository.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    right, wrong = F.logsigmoid(r_c - r_r), F.logsigmoid(r_r - r_c)
    return PairLoss(-(1 - label_smoothing) * right - label_smoothing * wrong, r_c, r_r)


def robust(chosen: Side, rejected: Side, *, beta: float, label_smoothing: float) -> PairLoss:
    r"""[-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)] / (1 - 2 e), unbiased where a share e of the labels
    is wrong, e = `label_smoothing`.

    Raises ValueError unless 0 <= e < 1/2. Source: Chowdhury et al. 2024, Eq. 12; TRL's `robust`.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    right, wrong = F.logsigmoid(r_c - r_r), F.logsigmoid(r_r - r_c)
    loss = (-(1 - label_smoothing) * right + label_smoothing * wrong) / (1 - 2 * label_smoothing)
    return PairLoss(loss, r_c, r_r)


def hinge(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""max(0, 1 - beta h), h and rewards as in `dpo`.

    Source: SLiC-HF (Zhao et al. 2023) with log-ratios; TRL's `hinge`.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(torch.relu(1 - (r_c - r_r)), r_c, r_r)


def ipo(chosen: Side, rejected: Side, *, beta: float, reduction: Literal["sum", "mean"]) -> PairLoss:
    r"""(h - 1 / (2 beta))^2, h from sums over tokens (`sum`: the paper) or from per-token means (`mean`: TRL).

    Rewards beta * (sum or mean of log pi/ref). Source: Azar et al. 2023, Eq. 17.
    """
    reduce = {"sum": reward_sum, "mean": reward_mean}[reduction]
    h_c, h_r = (reduce(side.logratio, side) for side in (chosen, rejected))
    return PairLoss((h_c - h_r - 1 / (2 * beta)) ** 2, beta * h_c, beta * h_r)


def simpo(chosen: Side, rejected: Side, *, beta: float, gamma: float) -> PairLoss:
    r"""-log sigmoid(beta (mean log pi of the chosen - of the rejected) - gamma), reference-free.

    `gamma` is absolute, as in the SparsePO paper; the official code takes gamma / beta. Rewards beta * mean log pi.
    Source: Meng et al. 2024, Eq. 6.
    """
    r_c, r_r = (beta * reward_mean(side.logps, side) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - r_r - gamma), r_c, r_r)


def dpop(chosen: Side, rejected: Side, *, beta: float, penalty: float) -> PairLoss:
    r"""-log sigmoid(beta [h - penalty * max(0, log ref/pi of the chosen)]): DPO with a penalty where
    the chosen response becomes less likely.

    The chosen reward includes the penalty: beta [r_c - penalty * max(0, -r_c)]. Source: Pal et al. 2024 (Smaug), Eq. 3.
    """
    h_c, h_r = (reward_sum(side.logratio, side) for side in (chosen, rejected))
    r_c, r_r = beta * (h_c - penalty * torch.relu(-h_c)), beta * h_r
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def tdpo1(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-log sigmoid(beta [h - (F_r - F_c)]), F = sum_t KL(ref || pi), both with gradient.

    Rewards beta (sum log pi/ref + F). Source: Zeng et al. 2024 (TDPO), Eq. 13.
    """
    r_c, r_r = (beta * (reward_sum(side.logratio, side) + kl_sum(side.forward_kl, side)) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def tdpo2(chosen: Side, rejected: Side, *, beta: float, alpha: float) -> PairLoss:
    r"""-log sigmoid(beta [h - alpha (F_r - stopgrad F_c)]), F = sum_t KL(ref || pi).

    Rewards beta (sum log pi/ref + alpha F), whose difference is the argument of the sigmoid (the official code always
    logs alpha = 1). Source: Zeng et al. 2024 (TDPO), Eq. 17.
    """
    kl_c, kl_r = kl_sum(chosen.forward_kl, chosen).detach(), kl_sum(rejected.forward_kl, rejected)
    r_c = beta * (reward_sum(chosen.logratio, chosen) + alpha * kl_c)
    r_r = beta * (reward_sum(rejected.logratio, rejected) + alpha * kl_r)
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
    return reward_sum(side.logratio, side) - kl_sum(side.reverse_kl, side)


def _sparse_reward_released(side: Side) -> Tensor:
    return reward_sum(side.logratio, side) + kl_sum(side.forward_kl, side)


def odpo(chosen: Side, rejected: Side, *, beta: float, alpha: float) -> PairLoss:
    r"""-log sigmoid(beta h - alpha log(s_c - s_r)), s = `score` of the response.

    Needs s_c > s_r. Source: Amini et al. 2024 (ODPO), with f = log.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    offset = alpha * torch.log(chosen.score - rejected.score)
    return PairLoss(-F.logsigmoid(r_c - r_r - offset.to(r_c.dtype)), r_c, r_r)


def kto(
    chosen: Side, rejected: Side, *, beta: float, desirable: float, undesirable: float, kl: float | Tensor
) -> PairLoss:
    r"""Mean over both responses of w_D (1 - sigmoid(r_c - z)) and w_U (1 - sigmoid(z - r_r)), r = beta sum log pi/ref.

    z = beta * `kl`, where `kl` >= 0 estimates KL(pi || ref) from responses to other prompts, without gradient (see
    `training.step_statistics`). w_D = `desirable`, w_U = `undesirable`; a pair is one example of each.

    Source: Ethayarajh et al. 2024.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    z = beta * kl
    loss = desirable * (1 - torch.sigmoid(r_c - z)) + undesirable * (1 - torch.sigmoid(z - r_r))
    return PairLoss(loss / 2, r_c, r_r)


def orpo(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-mean log pi of the chosen - beta log sigmoid(o_c - o_r), o = log(p / (1 - p)), p = exp(mean log pi).

    Reference-free; beta is the paper's lambda. Rewards beta * o. Source: Hong et al. 2024 (ORPO).
    """
    l_c, l_r = (reward_mean(side.logps, side) for side in (chosen, rejected))
    o_c, o_r = _log_odds(l_c), _log_odds(l_r)
    return PairLoss(-l_c - beta * F.logsigmoid(o_c - o_r), beta * o_c, beta * o_r)


def _log_odds(logp: Tensor) -> Tensor:
    """log p - log(1 - p); p = 1, whose odds are infinite, is replaced by the largest number below it."""
    logp = logp.clamp_max(-torch.finfo(logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))


def sepo(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-log sigmoid(beta (mean log pi of the selected chosen tokens - of the selected rejected ones)), no reference.

    m_u is 1 on the tokens that an oracle's scores select, see `fixed_masks.SelectedHead`. The authors' code has no beta
    (beta = 1). Rewards beta * mean log pi. Source: Yang et al. 2024 (SePO), arXiv 2408.13518.
    """
    return simpo(chosen, rejected, beta=beta, gamma=0.0)


def selective_nll(chosen: Side, rejected: Side) -> PairLoss:
    r"""-mean log pi of the selected chosen tokens: language modelling on the tokens where m_u is 1.

    The rejected response has no effect. Rewards are the means. Source: Lin et al. 2024 (Rho-1).
    """
    l_c, l_r = (reward_mean(side.logps, side) for side in (chosen, rejected))
    return PairLoss(-l_c, l_c, l_r)


def inpo(chosen: Side, rejected: Side, *, beta: float, ratio: float) -> PairLoss:
    r"""(D_pi - ratio D_ref - (1 - ratio) D_prev - 1 / (2 beta))^2, D = sum log-prob of the chosen - of the rejected.

    beta is the paper's eta, `ratio` its tau / eta; log-probs of the previous policy are the `values` of the pairs. In
    the first round, where the previous policy is the reference, this is IPO.

    Rewards beta * (sum log pi - ratio log ref - (1 - ratio) log prev). Source: Zhang et al. 2024 (INPO).
    """
    h_c, h_r = (
        reward_sum(side.logps - ratio * side.ref_logps - (1 - ratio) * side.values, side) for side in (chosen, rejected)
    )
    return PairLoss((h_c - h_r - 1 / (2 * beta)) ** 2, beta * h_c, beta * h_r)


def tis_dpo(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-log sigmoid(u - eta), one weight w_t for the reward and the KL of a token.

        u   = beta ([sum_t w_t log pi/ref]_chosen - [..]_rejected)
        eta = beta ([sum_t w_t KL(pi || ref)]_chosen - [..]_rejected)

    That is `sparsepo` in the form of its paper with w_t = m_u = m_d, see `fixed_masks.ImportanceHead`. The authors'
    code leaves eta out by default (`token_level: false`): that is `dpo` with the mask `importance`; with it, it takes
    half of eta. Source: Liu et al. 2024 (TIS-DPO), arXiv 2410.04350; exlaw/TIS-DPO, trainers.py.
    """
    return sparsepo(chosen, rejected, beta=beta, form="paper")


def rpo(chosen: Side, rejected: Side, *, beta: float, rpo_alpha: float) -> PairLoss:
    r"""-log sigmoid(beta h) - rpo_alpha * mean log pi of the chosen: DPO that also keeps the chosen responses likely.

    The mean has no weights, whatever the mask. Rewards as in `dpo`. Source: Pang et al. 2024 (Iterative RPO), Eq. 1.
    """
    pair = dpo(chosen, rejected, beta=beta)
    nll = -weighted_sum(chosen.logps, None, chosen.valid) / chosen.valid.sum(-1)
    return replace(pair, loss=pair.loss + rpo_alpha * nll)


def dpo_norm(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-log sigmoid(beta (mean log pi/ref of the chosen - of the rejected)), so that length has no direct effect.

    Rewards beta * mean log pi/ref. Source: Lambert et al. 2024 (Tulu 3), Eq. 6.
    """
    r_c, r_r = (beta * reward_mean(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def ld_dpo(chosen: Side, rejected: Side, *, beta: float, ld_alpha: float) -> PairLoss:
    r"""DPO in which tokens beyond the length of the shorter response of the pair count `ld_alpha` times, 0 to 1.

    Rewards beta * the weighted sum of log pi/ref. Source: Liu et al. 2024 (LD-DPO), arXiv 2409.06411; TRL's `ld_alpha`.
    """
    shared = torch.minimum(chosen.valid.sum(-1), rejected.valid.sum(-1)).unsqueeze(-1)
    r_c, r_r = (
        beta * reward_sum(torch.where(side.valid.cumsum(-1) <= shared, 1.0, ld_alpha) * side.logratio, side)
        for side in (chosen, rejected)
    )
    return PairLoss(-F.logsigmoid(r_c - r_r), r_c, r_r)


def apo_zero(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""1 - sigmoid(r_c) + sigmoid(r_r): chosen more likely than before, rejected less. r = beta sum log pi/ref.

    Source: D'Oosterlinck et al. 2024 (APO), for a reference that is worse than the chosen responses.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(1 - torch.sigmoid(r_c) + torch.sigmoid(r_r), r_c, r_r)


def apo_down(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""sigmoid(r_c) + 1 - sigmoid(r_c - r_r): both less likely, the rejected more so. r = beta sum log pi/ref.

    Source: D'Oosterlinck et al. 2024 (APO), for a reference that is better than the chosen responses.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(torch.sigmoid(r_c) + 1 - torch.sigmoid(r_c - r_r), r_c, r_r)


def sppo(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""(sum log pi/ref - 1 / (2 beta))^2 of the chosen + (sum log pi/ref + 1 / (2 beta))^2 of the rejected.

    The chosen response wins with probability 1; beta is 1 / eta of the paper. Rewards beta * sum log pi/ref. Source: Wu
    et al. 2024 (SPPO), Eq. 4.7; TRL's `sppo_hard`.
    """
    h_c, h_r = (reward_sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss((h_c - 1 / (2 * beta)) ** 2 + (h_r + 1 / (2 * beta)) ** 2, beta * h_c, beta * h_r)


def nca(chosen: Side, rejected: Side, *, beta: float) -> PairLoss:
    r"""-log sigmoid(r_c) - [log sigmoid(-r_c) + log sigmoid(-r_r)] / 2, r = beta sum log pi/ref.

    Source: Chen et al. 2024 (Noise contrastive alignment), for pairs; TRL's `nca_pair`.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c) - (F.logsigmoid(-r_c) + F.logsigmoid(-r_r)) / 2, r_c, r_r)


def bco(chosen: Side, rejected: Side, *, beta: float, shift: float | Tensor) -> PairLoss:
    r"""-log sigmoid(r_c - shift) - log sigmoid(shift - r_r), r = beta sum log pi/ref.

    `shift` is the mean reward so far, without gradient (see `training.step_statistics`). Source: Jung et al. 2024
    (BCO), for pairs; TRL's `bco_pair`.
    """
    r_c, r_r = (beta * reward_sum(side.logratio, side) for side in (chosen, rejected))
    return PairLoss(-F.logsigmoid(r_c - shift) - F.logsigmoid(shift - r_r), r_c, r_r)
