"""Validation while a policy trains: the loss of pairs that it is not trained on, and the weights of the lowest loss."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsepo.runtime.errors import UserError
from sparsepo.training.checkpoints import trained_weights
from sparsepo.training.distributed import StepCollator
from sparsepo.training.pair_objective import PairObjective
from sparsepo.training.step_statistics import Statistic


@torch.no_grad()
def validate(
    objective: PairObjective,
    collator: StepCollator,
    autocast: Callable[[], AbstractContextManager],
    seed: int,
    sum_over_processes: Callable[[Sequence[Tensor]], list[float]],
    statistic: Statistic | None = None,
) -> dict[str, float]:
    """The means over all pairs of the loss that is minimised, and of whether the chosen response has more reward.

    collator: gives each process its share; statistic: that of these pairs. In eval mode; random masks are drawn from
    `seed`, the same each time. Neither the mode nor the global random state is changed. Raises UserError for a loss
    that is not finite.
    """
    device, was_training = next(objective.policy.parameters()).device, objective.training
    loss = num_correct = torch.zeros((), dtype=torch.float64, device=device)
    objective.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        count, size = len(collator.maker.pairs), collator.maker.config.batch_size
        for start in range(0, count, size):
            step = collator(range(start, min(start + size, count)))
            batches = [batch.to(device) for batch in step["micro_batches"]]
            if statistic is not None:
                with autocast():
                    batches = statistic.add_to_batches(objective, batches, sum_over_processes, seed, is_training=False)
            for batch in batches:
                with autocast():
                    output = objective(batch)
                is_correct = output.pair.chosen_reward > output.pair.rejected_reward
                loss = loss + batch.weight * output.loss.double().sum()
                num_correct = num_correct + batch.weight * is_correct.sum()
    objective.train(was_training)
    total_loss, total_correct = sum_over_processes([loss, num_correct])
    if not math.isfinite(total_loss):
        raise UserError(f"the validation loss is {total_loss}")
    return {"validation_loss": total_loss / count, "validation_accuracy": total_correct / count}


@dataclass(frozen=True)
class BestWeights:
    """The trained weights after `step`, on the CPU, and their validation loss."""

    step: int
    loss: float
    weights: dict[str, Tensor]

    @classmethod
    def of_model(cls, model: nn.Module, step: int, loss: float) -> "BestWeights":
        return cls(step, loss, {name: value.to("cpu", copy=True) for name, value in trained_weights(model).items()})

    def write(self, path: Path) -> None:
        save_file(self.weights, path, {"step": str(self.step), "loss": repr(self.loss)})

    @classmethod
    def read(cls, path: Path) -> "BestWeights":
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        return cls(int(metadata["step"]), float(metadata["loss"]), load_file(path))
