"""The logs of a training run: lines for people, rows of JSON for the report."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from sparsepo.objective.response_terms import Side, weighted_sum
from sparsepo.runtime.errors import add_path_to_disk_error
from sparsepo.runtime.progress import Loop
from sparsepo.runtime.status import update_metrics
from sparsepo.training.pair_objective import PairOutput

PRINTED = (
    "loss",
    "reward",
    "feature",
    "kl_to_reference",
    "reward_margin",
    "reward_accuracy",
    "reverse_kl_chosen",
    "sparsity_u_chosen",
    "effective_beta",
    "tokens_per_second",
)


class ProgressLogger(TrainerCallback):
    """Updates the status file of the job, prints a line every tenth of a run, and has a row logged at each checkpoint
    and at the end."""

    def __init__(self):
        self._last_tenth, self._loop = -1, None

    def on_train_begin(self, args, state, control, **_):
        self._loop = Loop("training", state.max_steps, done=state.global_step)

    def on_train_end(self, args, state, control, **_):
        self._loop.close()

    def on_log(self, args, state, control, logs=None, **_):
        numbers = {name: float(f"{value:.4g}") for name, value in (logs or {}).items() if name in PRINTED}
        update_metrics(numbers)
        tenth = 10 * state.global_step // state.max_steps
        if tenth > self._last_tenth:
            self._last_tenth = tenth
            print(f"step {state.global_step}/{state.max_steps} {json.dumps(numbers)}", flush=True)

    def on_step_end(self, args, state, control, **_):
        self._loop.advance(state.global_step)
        if control.should_save or state.global_step == state.max_steps:
            control.should_log = True  # so that no row averages over steps before and after a checkpoint


class EveryNSteps(TrainerCallback):
    """Calls `action` every `interval` steps and after the last one; with `at_start` also before the first."""

    def __init__(self, interval: int, action: Callable[[], None], *, at_start: bool = False):
        self.interval, self.action, self.at_start = interval, action, at_start

    def on_train_begin(self, args, state, control, **_):
        if self.at_start and state.global_step == 0:
            self.action()

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.interval == 0 or state.global_step == state.max_steps:
            self.action()


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line in one write."""
    with add_path_to_disk_error(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def pair_metrics(output: PairOutput, *, with_negative: bool = False) -> dict[str, Tensor]:
    """Each (b,); rewards are those of the loss, KL and log-probs sums over the response.

    What was not computed is left out. with_negative: also the share of tokens whose weight is negative.
    """
    pair = output.pair
    values = {
        "reward_chosen": pair.chosen_reward,
        "reward_rejected": pair.rejected_reward,
        "reward_margin": pair.chosen_reward - pair.rejected_reward,
        "reward_accuracy": (pair.chosen_reward > pair.rejected_reward).float(),
    }
    for name, side in (("chosen", output.chosen), ("rejected", output.rejected)):
        for term in ("reverse_kl", "forward_kl"):
            if getattr(side, term) is not None:
                values[f"{term}_{name}"] = weighted_sum(getattr(side, term), None, side.valid)
        if side.ref_logps is not None:
            values[f"logp_change_{name}"] = weighted_sum(side.logratio, None, side.valid)
        for letter in "ud":
            weight = getattr(side, f"m_{letter}")
            if weight is not None:
                values[f"sparsity_{letter}_{name}"] = _token_mean((weight == 0).float(), side)
                if with_negative:
                    values[f"negative_{letter}_{name}"] = _token_mean((weight < 0).float(), side)
    if output.chosen.m_u is not None:
        for letter in "ud":
            means = [_token_mean(getattr(side, f"m_{letter}"), side) for side in (output.chosen, output.rejected)]
            values[f"mask_{letter}_mean"] = torch.stack(means).mean(0)
        values["mask_l1"] = output.penalty
    return values


def _token_mean(values: Tensor, side: Side) -> Tensor:
    return weighted_sum(values, None, side.valid) / side.valid.sum(-1)
