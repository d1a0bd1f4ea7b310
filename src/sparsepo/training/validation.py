"""Validation while a policy trains: the loss of pairs that it is not trained on, and the weights of the lowest."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsepo.data.collation import onto
from sparsepo.runtime.errors import UserError
from sparsepo.training.checkpoints import trained_weights
from sparsepo.training.distributed import Shares
from sparsepo.training.pair_objective import PairObjective
from sparsepo.training.step_statistics import Statistic


@torch.no_grad()
def validate(
    objective: PairObjective,
    shares: Shares,
    precision: Callable[[], AbstractContextManager],
    seed: int,
    total: Callable[[Sequence[Tensor]], list[float]],
    statistic: Statistic | None = None,
) -> dict[str, float]:
    """Means over all pairs of the loss that is minimised and of whether the chosen response has the larger reward.

    `shares` gives each process its part, `total` sums over processes, and `statistic` is that of these pairs. In eval
    mode; random masks are drawn from `seed`, the same each time. Neither the mode nor the program's random state is
    changed. Raises UserError for a loss that is not finite.
    """
    device, trains = next(objective.policy.parameters()).device, objective.training
    loss = right = torch.zeros((), dtype=torch.float64, device=device)
    objective.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        count, size = len(shares.batches.pairs), shares.batches.config.batch_size
        for start in range(0, count, size):
            micro = [onto(device, batch) for batch in shares(range(start, min(start + size, count)))["micro"]]
            if statistic is not None:
                with precision():
                    statistic.prepare(objective, micro, total, seed, trains=False)
            for batch in micro:
                with precision():
                    outcome = objective(batch)
                loss = loss + batch["weight"] * outcome.loss.double().sum()
                right = right + batch["weight"] * (outcome.pair.chosen_reward > outcome.pair.rejected_reward).sum()
    objective.train(trains)
    all_loss, all_right = total([loss, right])
    if not math.isfinite(all_loss):
        raise UserError(f"the validation loss is {all_loss}")
    return {"validation_loss": all_loss / count, "validation_accuracy": all_right / count}


@dataclass(frozen=True)
class Best:
    """The trained weights after `step`, on the CPU, and their validation loss."""

    step: int
    loss: float
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, step: int, loss: float) -> "Best":
        return cls(step, loss, {name: value.to("cpu", copy=True) for name, value in trained_weights(model).items()})

    def write(self, path: Path) -> None:
        save_file(self.weights, path, {"step": str(self.step), "loss": repr(self.loss)})

    @classmethod
    def read(cls, path: Path) -> "Best":
        with safe_open(path, "pt") as file:
            made = file.metadata()
        return cls(int(made["step"]), float(made["loss"]), load_file(path))
