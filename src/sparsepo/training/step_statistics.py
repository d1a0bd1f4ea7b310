"""What some losses need of all pairs of a step, computed without gradient before the losses of its micro-batches."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor

from sparsepo.data.collation import TokenPair, collate, onto
from sparsepo.methods.registry import METHODS
from sparsepo.objective.response_terms import Side, weighted_sum
from sparsepo.runtime.errors import UserError

Total = Callable[[Sequence[Any]], list[float]]
LEAST_BETA = 1e-3


class Statistic(Protocol):
    """`state` goes with a checkpoint."""

    state: dict[str, float]

    def prepare(self, model: Any, micro: Sequence[dict[str, Any]], total: Total, seed: int, trains: bool) -> None:
        """Add to the micro-batches of a step (`pairs`, their places, and a `weight`) what their losses need of all.

        That is `step`, keywords of the loss, and `share`, factors on the losses of pairs. model: a `PairObjective`, or
        what wraps it. `total` sums over processes.
        """


class MismatchedKL:
    """z of KTO: `kl` = max(0, mean of sum_t log pi/ref over responses to another pair's prompt), an estimate of the KL.

    Pair i lends its prompt to both responses of the next pair with another prompt, so that the estimate depends on the
    pairs of a step alone, not on how they are cut. Source: Ethayarajh et al. 2024, Section 4.2.
    """

    def __init__(self, pairs: Sequence[TokenPair], layout: str, context: int, **_: Any):
        self.state: dict[str, float] = {}
        self.layout, self.pairs = layout, mismatched(pairs, context)

    def prepare(self, model: Any, micro: Sequence[dict[str, Any]], total: Total, seed: int, trains: bool) -> None:
        sums, count = 0.0, 0
        for batch in micro:
            pairs = [self.pairs[place] for place in batch["pairs"]]
            sides = model(onto(batch["input_ids"].device, collate(pairs, 0, self.layout)) | {"look": True})
            sums = sums + batch["weight"] * sum(_ratio(side).sum() for side in sides)
            count += batch["weight"] * 2 * len(pairs)
        ratio, responses = total([sums, count])
        for batch in micro:
            batch["step"] = {"kl": max(0.0, ratio / responses)}


def mismatched(pairs: Sequence[TokenPair], context: int) -> list[TokenPair]:
    """Each pair's prompt with the responses of the next pair that has another prompt, cut where the context ends.

    Raises UserError where all pairs have one prompt.
    """
    count, found = len(pairs), []
    for place, pair in enumerate(pairs):
        others = (pairs[(place + step) % count] for step in range(1, count))
        other = next((other for other in others if other.prompt != pair.prompt), None)
        if other is None:
            raise UserError("all pairs have the same prompt, and KTO needs responses to other prompts")
        room = context - len(pair.prompt)
        found.append(TokenPair(pair.prompt, other.chosen[:room], other.rejected[:room]))
    return found


class RunningMargin:
    r"""beta' and the pairs of beta-DPO, by h = (log pi/ref of the chosen) - (of the rejected) of a step's pairs.

    mu and s are running means of the mean and the deviation of h (`momentum`, corrected for their start at 0), updated
    first. A share `filtered` of the pairs is left out: kept ones are drawn without replacement, in proportion to
    exp(-(h - mu)^2 / 2 s^2). Then beta' = max(1e-3, beta [1 + scale (mean h of the kept - mu)]). Neither carries a
    gradient. Pairs that are only looked at, in validation, all count, with beta. Source: Wu et al. 2024 (beta-DPO).
    """

    def __init__(self, hyper: Mapping[str, float], adaptation: Mapping[str, float], **_: Any):
        self.beta, self.adaptation = hyper["beta"], adaptation
        self.state = {"steps": 0, "mean": 0.0, "deviation": 0.0}

    def prepare(self, model: Any, micro: Sequence[dict[str, Any]], total: Total, seed: int, trains: bool) -> None:
        if not trains:
            return
        found = []
        for batch in micro:
            chosen, rejected = model({**batch, "look": True})
            found += zip(batch["pairs"], (_ratio(chosen) - _ratio(rejected)).tolist(), strict=True)
        margins = dict(sorted(gather_object(found)))
        mean, deviation = self._updated(list(margins.values()))
        kept = self._drawn(margins, mean, deviation, random.Random(f"{seed} {self.state['steps']}"))
        gap = fmean(margins[place] for place in kept) - mean
        beta = max(LEAST_BETA, self.beta * (1 + self.adaptation["scale"] * gap))
        for batch in micro:
            factors = [len(margins) / len(kept) if place in kept else 0.0 for place in batch["pairs"]]
            batch["step"], batch["share"] = {"beta": beta}, torch.tensor(factors, device=batch["input_ids"].device)

    def _updated(self, margins: Sequence[float]) -> tuple[float, float]:
        """mu and s with these margins in them."""
        old, momentum = self.state, self.adaptation["momentum"]
        new = {"mean": fmean(margins), "deviation": pstdev(margins)}
        moved = {name: momentum * old[name] + (1 - momentum) * value for name, value in new.items()}
        self.state = {"steps": old["steps"] + 1, **moved}
        weight = 1 - momentum ** self.state["steps"]
        return moved["mean"] / weight, moved["deviation"] / weight

    def _drawn(self, margins: Mapping[int, float], mean: float, deviation: float, drawn: random.Random) -> set[int]:
        """Places of the kept pairs: the largest of log weight + Gumbel noise are a draw without replacement."""
        count = max(1, round((1 - self.adaptation["filtered"]) * len(margins)))
        spread = max(deviation, 1e-9)
        keys = {
            place: -(((margin - mean) / spread) ** 2) / 2 - math.log(drawn.expovariate(1.0))
            for place, margin in margins.items()
        }
        return set(sorted(keys, key=keys.get, reverse=True)[:count])


def _ratio(side: Side) -> Tensor:
    return weighted_sum(side.logratio, None, side.valid)


STATISTICS: dict[str, Callable[..., Statistic]] = {
    "mismatched_kl": MismatchedKL,
    "running_margin": RunningMargin,
}
"""By the name in a row of `METHODS`."""


def statistic_of(
    method: str, given: Mapping[str, Any], pairs: Sequence[TokenPair], layout: str, context: int
) -> Statistic | None:
    """The statistic of a method for runs on these pairs, or None if its losses look at one pair each."""
    row = METHODS[method]
    if not row.statistic:
        return None
    of = {"hyper": row.split(given)[0], "adaptation": row.adaptation(given)}
    return STATISTICS[row.statistic](pairs=pairs, layout=layout, context=context, **of)
