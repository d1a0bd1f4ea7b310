"""What a loss of the user must do, tried on random numbers before it trains anything."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch

from sparsepo.objective.response_terms import PairLoss, Side
from sparsepo.runtime.errors import UserError

PAIRS, TOKENS = 8, 6
SEEDS = {"chosen": 1, "rejected": 2}
OPTIONAL = [
    ("kl", "reverse"),
    ("kl", "forward"),
    ("needs_scores", True),
    ("needs_values", True),
    ("needs_reference", True),
]


def check_loss(
    name: str,
    loss: Callable[..., Any],
    hyper: Mapping[str, Any],
    *,
    has_weights: bool,
    needs_reference: bool = True,
    needs_scores: bool = False,
    needs_values: bool = False,
    kl: str | None = None,
) -> None:
    """Raises UserError unless the loss of `register_method` is one that can be trained.

    It has to return a `PairLoss` with one number for each pair that has a gradient, does not change with cells behind a
    response or with other pairs, and, where masks may weigh its tokens, changes with the weights. The arguments are
    those of the method's row.
    """
    given = {"needs_reference": needs_reference, "needs_scores": needs_scores, "needs_values": needs_values, "kl": kl}

    def run_loss(pairs: int = PAIRS, tokens: int = TOKENS, weighted: bool = False, **more: Any) -> PairLoss:
        sides = [_random_side(SEEDS[side], given | more, side, weighted, pairs, tokens) for side in SEEDS]
        return loss(*sides, **hyper)

    def needed_argument() -> str | None:
        """The argument of `register_method` with which the loss would run."""
        for key, value in OPTIONAL:
            with suppress(Exception):
                run_loss(**{key: value})
                return f"{key}={value!r}"
        return None

    def equal_losses(one: PairLoss, other: PairLoss) -> bool:
        return torch.allclose(one.loss, other.loss, rtol=1e-4, atol=1e-6)

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            plain = run_loss()
        except (TypeError, AttributeError):
            if (argument := needed_argument()) is None:
                raise
            raise UserError(f"method '{name}': the loss reads what is not given: register it with {argument}") from None
        if not isinstance(plain, PairLoss):
            problem = f"returns a {type(plain).__name__}: return PairLoss(loss, chosen_reward, rejected_reward)"
        elif plain.loss.shape != (PAIRS,) or plain.chosen_reward.shape != (PAIRS,):
            shapes = tuple(plain.loss.shape), tuple(plain.chosen_reward.shape)
            problem = (
                f"has shape {shapes[0]} and its rewards {shapes[1]} for {PAIRS} pairs: give one number for each pair"
            )
        elif not plain.loss.isfinite().all():
            problem = f"is {plain.loss[~plain.loss.isfinite()][0]} for log-probs between -1 and 0"
        elif not plain.loss.requires_grad:
            problem = "has no gradient with respect to the log-probs: leave detach() out"
        elif not equal_losses(plain, run_loss(tokens=TOKENS + 3)):
            problem = "changes with the length of other responses: sum by reward_sum, average by reward_mean"
        elif not torch.allclose(plain.loss[:2], run_loss(pairs=2).loss, rtol=1e-4, atol=1e-6):
            problem = "changes with the other pairs of a micro-batch: name a `statistic` for what it needs of a step"
        elif has_weights and equal_losses(plain, run_loss(weighted=True)):
            problem = (
                "does not change with the weights of a mask: sum by reward_sum or kl_sum, average by reward_mean, or "
                "register it with token_weights=None"
            )
        else:
            return
    raise UserError(f"method '{name}': the loss {problem}")


def _random_side(seed: int, given: Mapping[str, Any], side: str, weighted: bool, pairs: int, tokens: int) -> Side:
    """Random terms as a batch has them, 0 behind the end of each response; the first pairs do not depend on `pairs`."""
    numbers = torch.Generator().manual_seed(seed)
    length = 2 + torch.arange(PAIRS) % (TOKENS - 1)
    valid = (torch.arange(tokens) < length[:, None])[:pairs]

    def random_terms() -> torch.Tensor:
        grid = torch.zeros(PAIRS, tokens)
        grid[:, :TOKENS] = torch.rand(PAIRS, TOKENS, generator=numbers)
        return grid[:pairs].where(valid, 0.0)

    logps, ref_logps, reverse, forward, values, m_u, m_d = (random_terms() for _ in range(7))
    return Side(
        -logps.requires_grad_(),
        -ref_logps if given["needs_reference"] else None,
        reverse if given["kl"] == "reverse" else None,
        forward if given["kl"] == "forward" else None,
        valid,
        m_u if weighted else None,
        m_d if weighted else None,
        values if given["needs_values"] else None,
        torch.full((pairs,), 2.0 if side == "chosen" else 1.0) if given["needs_scores"] else None,
    )
