"""Running estimates of f-DPG: the normaliser of each prompt, and the baseline of the pseudo-rewards."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

BASELINE_WINDOW = 1024  # responses that the baseline is a mean over


class RunningEstimates:
    """Running estimates of the normaliser of each prompt and of the baseline, float64.

    Z_c = E_q[P / q] is the mean of P / q over all responses sampled to prompt c so far, whatever policy q they are of:
    each has the same expectation. It is stored as log sum and count, so that nothing overflows. It includes the
    responses of the current step, so no weight P / (Z q) is larger than the number of responses to its prompt.

    The baseline is the mean of the pseudo-rewards of the last `BASELINE_WINDOW` responses before the step (0 before
    the first), one for all prompts, as in the authors' code (naver/disco). It does not depend on the responses of the
    step, so it does not change the expected gradient.
    """

    def __init__(self, prompts: int):
        self.log_sum = torch.full((prompts,), -torch.inf, dtype=torch.float64)
        self.count = torch.zeros(prompts, dtype=torch.float64)
        self.window = torch.zeros(0, dtype=torch.float64)

    def add_ratios(self, prompts: Tensor, log_ratios: Tensor) -> None:
        """Add log P - log q, (c, s), of s responses to each of the distinct prompts (c,)."""
        self.log_sum[prompts] = torch.logaddexp(self.log_sum[prompts], log_ratios.logsumexp(-1))
        self.count[prompts] += log_ratios.shape[-1]

    def log_z(self, prompts: Tensor) -> Tensor:
        """(c,): -inf for a prompt without a response."""
        return self.log_sum[prompts] - self.count[prompts].log()

    @property
    def baseline(self) -> float:
        """The mean of the last pseudo-rewards."""
        return float(self.window.mean()) if len(self.window) else 0.0

    def add_pseudo_rewards(self, pseudo_rewards: Tensor) -> None:
        """Add those of the responses of a step."""
        self.window = torch.cat([self.window, pseudo_rewards.flatten()])[-BASELINE_WINDOW:]

    def write(self, path: Path) -> None:
        """Save them in a checkpoint."""
        save_file(dict(vars(self)), path)

    def read(self, path: Path) -> None:
        """Load what `write` has saved."""
        for name, value in load_file(path).items():
            setattr(self, name, value)
