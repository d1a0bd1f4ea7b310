"""What is logged of a batch: numbers that the loss itself computed."""

import torch
from torch import Tensor

from sparsepo.objective.response_terms import Side
from sparsepo.training.objective import Outcome


def metrics(outcome: Outcome) -> dict[str, Tensor]:
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
