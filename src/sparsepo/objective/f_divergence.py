"""Energy-based targets of a policy: p(x|c) = a(x|c) exp(scale v(c, x)) / Z_c, and four divergences from them.

w = p / pi is the weight of a sample x of the policy pi, t = pi / p = 1 / w. All is computed from log w, in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor

from sparsepo.runtime.errors import UserError

LOG_2 = math.log(2)


@dataclass(frozen=True)
class Divergence:
    """An f-divergence D(pi || p) = E_p[f(t)] as two functions of log w, elementwise.

    pseudo_reward: -f'(t), as E_pi[f'(t) grad log pi] is the gradient of the divergence. estimate: nats; its mean over
    samples of the policy estimates the divergence, a single value may be negative.
    """

    pseudo_reward: Callable[[Tensor], Tensor]
    estimate: Callable[[Tensor], Tensor]


def _js(log_w: Tensor) -> Tensor:
    """[w log(2w / (1 + w)) + log(2 / (1 + w))] / 2."""
    return (log_w.exp() * (LOG_2 - F.softplus(-log_w)) + LOG_2 - F.softplus(log_w)) / 2


DIVERGENCES = {
    "kl": Divergence(lambda log_w: log_w.exp(), lambda log_w: log_w.exp() * log_w),
    "reverse_kl": Divergence(lambda log_w: log_w - 1, lambda log_w: -log_w),
    "js": Divergence(lambda log_w: F.softplus(log_w) - LOG_2, _js),
    "tv": Divergence(lambda log_w: log_w.sign() / 2, lambda log_w: (1 - log_w.exp()).abs() / 2),
}
"""`kl` is KL(p || pi), `reverse_kl` is KL(pi || p), `js` Jensen-Shannon (<= log 2), `tv` total variation (<= 1).

The pseudo-reward of `js` is the published one, whose gradient is that of twice the divergence estimated here.
Source: Go et al. 2023 (f-DPG); naver/disco, tuners/losses.
"""


def surrogate(logps: Tensor, log_q: Tensor, advantage: Tensor) -> Tensor:
    """(b,) -> (b,): -sg(pi / q) advantage log pi, whose mean has the gradient of the divergence.

    logps: log pi of responses that were sampled from q, with gradient; log_q: their log-probs under q. advantage:
    pseudo-reward minus a baseline, which does not change the expected gradient. Raises ValueError where shapes differ.
    """
    if not logps.shape == log_q.shape == advantage.shape:
        raise ValueError(f"shapes differ: {tuple(logps.shape)}, {tuple(log_q.shape)}, {tuple(advantage.shape)}")
    return -(logps.detach() - log_q).exp() * advantage * logps


def tilted_mean(values: Tensor, scale: float) -> float:
    """Mean over prompts of E_p[v], p = a exp(scale v) / Z, from (c, s) values of s samples of a for each of c prompts.

    Expectations are estimated for each prompt with weights that sum to 1, hence with a bias of order 1 / s.
    """
    return float(((scale * values).softmax(-1) * values).sum(-1).mean())


def fit_scale(values: Tensor, target_mean: float) -> float:
    """The scale (lambda) at which `tilted_mean` is `target_mean`, one for all prompts; the mean grows with the scale.

    values: (c, s), a feature of s responses of the reference to each of c prompts. Raises UserError for a mean that
    these samples cannot have, with the range that they can. Source: Khalifa et al. 2021 (GDC).
    """
    values = values.double()
    low, high = (float(ends.mean()) for ends in values.aminmax(dim=-1))
    if not low < target_mean < high:
        raise UserError(
            f"the target mean {target_mean:g} cannot be reached: with the samples of the reference the mean of the "
            f"feature can be between {low:.4g} and {high:.4g}, exclusive"
        )

    def error(scale: float) -> float:
        return tilted_mean(values, scale) - target_mean

    sign, bound = (1, 1.0) if error(0.0) <= 0 else (-1, 1.0)
    while sign * error(sign * bound) < 0:
        bound *= 2
    return brentq(error, *sorted((0.0, sign * bound)), xtol=1e-12)
