"""What an on-policy run remembers of earlier samples: log Z of each prompt, and a baseline of the pseudo-rewards."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WINDOW = 1024
"""Responses that the baseline is a mean over."""


class Moving:
    """Running estimates, float64.

    Z_c = E_q[P / q] is the mean of P / q over all responses drawn to prompt c so far, whatever policy q drew them:
    each has the same expectation. It is kept as log sum and count, so that no energy overflows. As the responses of the
    step are in it, no weight P / (Z q) is larger than the number of responses that were drawn to its prompt.

    The baseline is the mean of the pseudo-rewards of the last `WINDOW` responses before the step (0 before the first),
    one for all prompts, as in the authors' code (naver/disco). As it does not look at the responses of the step, it
    leaves the expected gradient as it is.
    """

    def __init__(self, prompts: int):
        self.log_sum = torch.full((prompts,), -torch.inf, dtype=torch.float64)
        self.count = torch.zeros(prompts, dtype=torch.float64)
        self.window = torch.zeros(0, dtype=torch.float64)

    def see(self, places: Tensor, log_ratios: Tensor) -> None:
        """log P - log q, (c, s), of s responses to each of the prompts `places` (c,), which are distinct."""
        self.log_sum[places] = torch.logaddexp(self.log_sum[places], log_ratios.logsumexp(-1))
        self.count[places] += log_ratios.shape[-1]

    def log_z(self, places: Tensor) -> Tensor:
        """(c,): -inf for a prompt that was never seen."""
        return self.log_sum[places] - self.count[places].log()

    @property
    def baseline(self) -> float:
        return float(self.window.mean()) if len(self.window) else 0.0

    def add(self, pseudo_rewards: Tensor) -> None:
        """Those of the responses of a step."""
        self.window = torch.cat([self.window, pseudo_rewards.flatten()])[-WINDOW:]

    def write(self, path: Path) -> None:
        save_file(dict(vars(self)), path)

    def read(self, path: Path) -> None:
        for name, value in load_file(path).items():
            setattr(self, name, value)
