"""What a training run says while it runs: lines for people, rows of JSON for the report."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from sparsepo.data.records import write_text
from sparsepo.objective.response_terms import Side
from sparsepo.runtime.errors import add_path_to_disk_error
from sparsepo.runtime.progress import Loop
from sparsepo.runtime.status import update_metrics
from sparsepo.training.pair_objective import PairOutput

SHOWN = (
    "loss",
    "reward",
    "feature",
    "kl_to_reference",
    "reward_margin",
    "reward_accuracy",
    "reverse_kl_chosen",
    "sparsity_u_chosen",
    "tokens_per_second",
)


class Progress(TrainerCallback):
    """Keeps the status file of the job, prints a line every tenth of a run, and lets a row be logged at each checkpoint
    and at the end."""

    def __init__(self):
        self._tenth, self._loop = -1, None

    def on_train_begin(self, args, state, control, **_):
        self._loop = Loop("training", state.max_steps, done=state.global_step)

    def on_train_end(self, args, state, control, **_):
        self._loop.close()

    def on_log(self, args, state, control, logs=None, **_):
        shown = {name: float(f"{value:.4g}") for name, value in (logs or {}).items() if name in SHOWN}
        update_metrics(shown)
        tenth = 10 * state.global_step // state.max_steps
        if tenth > self._tenth:
            self._tenth = tenth
            print(f"step {state.global_step}/{state.max_steps} {json.dumps(shown)}", flush=True)

    def on_step_end(self, args, state, control, **_):
        self._loop.advance(state.global_step)
        if control.should_save or state.global_step == state.max_steps:
            control.should_log = True  # so that no line averages over steps before and after a checkpoint


class Every(TrainerCallback):
    """Calls `act` every `every` steps and after the last one."""

    def __init__(self, every: int, act: Callable[[], None]):
        self.every, self.act = every, act

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.act()


class EveryFromTheStart(Every):
    """The same, and before the first step."""

    def on_train_begin(self, args, state, control, **_):
        if state.global_step == 0:
            self.act()


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line in one write."""
    with add_path_to_disk_error(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def keep_until(path: Path, step: int) -> None:
    """Drop lines after `step` (steps that a resumed run will do again) and a half-written last line."""
    if not path.exists():
        return
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] <= step:
            rows.append(line + "\n")
    write_text(path, "".join(rows))


def metrics(outcome: PairOutput) -> dict[str, Tensor]:
    """Each (b,); rewards are those the loss itself used, KL and log-probs sums over the response.

    What was not computed is not among them.
    """
    pair = outcome.pair
    values = {
        "reward_chosen": pair.chosen_reward,
        "reward_rejected": pair.rejected_reward,
        "reward_margin": pair.chosen_reward - pair.rejected_reward,
        "reward_accuracy": (pair.chosen_reward > pair.rejected_reward).float(),
    }
    for name, side in (("chosen", outcome.chosen), ("rejected", outcome.rejected)):
        for term in ("reverse_kl", "forward_kl"):
            if getattr(side, term) is not None:
                values[f"{term}_{name}"] = _total(getattr(side, term), side)
        if side.ref_logps is not None:
            values[f"logp_change_{name}"] = _total(side.logratio, side)
        for letter in "ud":
            weight = getattr(side, f"m_{letter}")
            if weight is not None:
                values[f"sparsity_{letter}_{name}"] = _average((weight == 0).float(), side)
    if outcome.chosen.m_u is not None:
        for letter in "ud":
            both = [_average(getattr(side, f"m_{letter}"), side) for side in (outcome.chosen, outcome.rejected)]
            values[f"mask_{letter}_mean"] = torch.stack(both).mean(0)
        values["mask_l1"] = outcome.penalty
    return values


def _total(values: Tensor, side: Side) -> Tensor:
    return values.where(side.valid, 0.0).sum(-1)


def _average(values: Tensor, side: Side) -> Tensor:
    return _total(values, side) / side.valid.sum(-1)
