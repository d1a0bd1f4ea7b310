"""What some losses need of all pairs of a step, computed without gradient before the losses of its micro-batches."""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from sparsepo.data.batches import PairBatch
from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import TokenPair
from sparsepo.methods.registry import METHODS
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.user_code import load_object

Sum = Callable[[Sequence[Any]], list[float]]
"""Of each value over all processes."""
MIN_BETA = 1e-3


class Statistic(Protocol):
    """`state` is saved with each checkpoint."""

    state: dict[str, float]

    def add_to_batches(
        self, model: Any, batches: Sequence[PairBatch], sum_over_processes: Sum, seed: int, is_training: bool
    ) -> Sequence[PairBatch]:
        """The micro-batches of a step with `loss_kwargs` and `pair_weights`, computed from all of them.

        model: a `PairObjective`, or a module that wraps it.
        """


class MismatchedKL:
    """z of KTO: `kl` = max(0, mean of sum_t log pi/ref over responses to another pair's prompt), an estimate of the KL.

    The prompt of pair i is combined with both responses of the next pair that has another prompt, so that the estimate
    depends on the pairs of a step, not on its micro-batches. Source: Ethayarajh et al. 2024, Section 4.2.
    """

    def __init__(self, pairs: Sequence[TokenPair], layout: str, context: int, **_: Any):
        self.state: dict[str, float] = {}
        self.layout, self.pairs = layout, mismatch_responses(pairs, context)

    def add_to_batches(
        self, model: Any, batches: Sequence[PairBatch], sum_over_processes: Sum, seed: int, is_training: bool
    ) -> Sequence[PairBatch]:
        mismatched = (
            replace(
                collate_pairs([self.pairs[index] for index in batch.pair_indices], 0, self.layout),
                weight=batch.weight,
            ).to(batch.inputs.input_ids.device)
            for batch in batches
        )
        logratio_sum, num_responses = sum_of_logratios(model, mismatched, sum_over_processes)
        kl = max(0.0, logratio_sum / num_responses)
        return [replace(batch, loss_kwargs={"kl": kl}) for batch in batches]


def mismatch_responses(pairs: Sequence[TokenPair], context: int) -> list[TokenPair]:
    """Each pair's prompt with the responses of the next pair that has another prompt, cut where the context ends.

    Raises UserError where all pairs have the same prompt.
    """
    mismatched = []
    for index, pair in enumerate(pairs):
        own = set(map(tuple, pair.prompts))
        next_pairs = (pairs[(index + step) % len(pairs)] for step in range(1, len(pairs)))
        other = next((other for other in next_pairs if not set(map(tuple, other.prompts)) & own), None)
        if other is None:
            raise UserError("all pairs have the same prompt, and KTO needs responses to other prompts")
        room = context - max(map(len, pair.prompts))
        responses = other.chosen[:room], other.rejected[:room]
        mismatched.append(TokenPair(pair.prompt, *responses, rejected_prompt=pair.rejected_prompt))
    return mismatched


class RunningMargin:
    r"""beta' and the pairs of beta-DPO, by h = (log pi/ref of the chosen) - (of the rejected) of a step's pairs.

    mu and s are running means of the mean and the deviation of h (`momentum`, corrected for their start at 0), updated
    first. A share `filtered` of the pairs is left out: the others are drawn without replacement, in proportion to
    exp(-(h - mu)^2 / 2 s^2). Then beta' = max(1e-3, beta [1 + scale (mean h of the drawn - mu)]). Neither has a
    gradient. In validation all pairs count, with beta. Source: Wu et al. 2024 (beta-DPO).
    """

    def __init__(self, hyper: Mapping[str, float], parameters: Mapping[str, float], **_: Any):
        self.beta, self.parameters = hyper["beta"], parameters
        self.state = {"steps": 0, "mean": 0.0, "deviation": 0.0}

    def add_to_batches(
        self, model: Any, batches: Sequence[PairBatch], sum_over_processes: Sum, seed: int, is_training: bool
    ) -> Sequence[PairBatch]:
        if not is_training:
            return batches
        own_margins = []
        for batch in batches:
            chosen, rejected = model(batch, logratios_only=True)
            own_margins += zip(batch.pair_indices, (chosen - rejected).tolist(), strict=True)
        margins = dict(sorted(gather_object(own_margins)))
        mean, deviation = self._update(list(margins.values()))
        drawn = self._draw_pairs(margins, mean, deviation, random.Random(f"{seed} {self.state['steps']}"))
        gap = fmean(margins[index] for index in drawn) - mean
        beta = max(MIN_BETA, self.beta * (1 + self.parameters["scale"] * gap))
        factor = len(margins) / len(drawn)
        return [
            replace(
                batch,
                loss_kwargs={"beta": beta},
                pair_weights=torch.tensor(
                    [factor if index in drawn else 0.0 for index in batch.pair_indices],
                    device=batch.inputs.input_ids.device,
                ),
            )
            for batch in batches
        ]

    def _update(self, margins: Sequence[float]) -> tuple[float, float]:
        """mu and s after these margins."""
        old, momentum = self.state, self.parameters["momentum"]
        new = {"mean": fmean(margins), "deviation": pstdev(margins)}
        running = {name: momentum * old[name] + (1 - momentum) * value for name, value in new.items()}
        self.state = {"steps": old["steps"] + 1, **running}
        correction = 1 - momentum ** self.state["steps"]
        return running["mean"] / correction, running["deviation"] / correction

    def _draw_pairs(self, margins: Mapping[int, float], mean: float, deviation: float, rng: random.Random) -> set[int]:
        """Indices of the drawn pairs: the largest of log weight + Gumbel noise are a draw without replacement."""
        count = max(1, round((1 - self.parameters["filtered"]) * len(margins)))
        spread = max(deviation, 1e-9)
        keys = {
            index: -(((margin - mean) / spread) ** 2) / 2 - math.log(rng.expovariate(1.0))
            for index, margin in margins.items()
        }
        return set(sorted(keys, key=keys.get, reverse=True)[:count])


class RunningReward:
    """delta of BCO: the mean of beta * sum_t log pi/ref over all responses of this and the former steps.

    In validation it is that of the training so far. Source: Jung et al. 2024 (BCO); TRL's `bco_pair`.
    """

    def __init__(self, hyper: Mapping[str, float], **_: Any):
        self.beta = hyper["beta"]
        self.state = {"responses": 0.0, "mean": 0.0}

    def add_to_batches(
        self, model: Any, batches: Sequence[PairBatch], sum_over_processes: Sum, seed: int, is_training: bool
    ) -> Sequence[PairBatch]:
        if is_training:
            total, count = sum_of_logratios(model, batches, sum_over_processes)
            responses = self.state["responses"] + count
            change = (self.beta * total - count * self.state["mean"]) / responses
            self.state = {"responses": responses, "mean": self.state["mean"] + change}
        return [replace(batch, loss_kwargs={"shift": self.state["mean"]}) for batch in batches]


def sum_of_logratios(model: Any, batches: Iterable[PairBatch], sum_over_processes: Sum) -> list[float]:
    """The sum of sum_t log pi/ref over all responses of a step, and how many there are."""
    total, count = 0.0, 0
    for batch in batches:
        logratios = model(batch, logratios_only=True)
        total = total + batch.weight * sum(values.sum() for values in logratios)
        count += batch.weight * sum(len(values) for values in logratios)
    return sum_over_processes([total, count])


class MaskMeans:
    """The mean of m_u and of m_d over all response tokens of a step, for masks with `normalise: mean`.

    A step of one micro-batch on one process needs no pass of its own: its means are computed with its loss.
    inner: another statistic of the method, if any.
    """

    def __init__(self, inner: Statistic | None):
        self.inner = inner

    @property
    def state(self) -> dict[str, float]:
        return {} if self.inner is None else self.inner.state

    @state.setter
    def state(self, state: dict[str, float]) -> None:
        if self.inner is not None:
            self.inner.state = state

    def add_to_batches(
        self, model: Any, batches: Sequence[PairBatch], sum_over_processes: Sum, seed: int, is_training: bool
    ) -> Sequence[PairBatch]:
        if self.inner is not None:
            batches = self.inner.add_to_batches(model, batches, sum_over_processes, seed, is_training)
        if len(batches) == 1 and PartialState().num_processes == 1:
            return batches
        sums = [[batch.weight * value for value in model(batch, mask_sums_only=True)] for batch in batches]
        total_u, total_d, count = sum_over_processes([sum(values) for values in zip(*sums, strict=True)])
        means = {"m_u": total_u / count, "m_d": total_d / count}
        return [replace(batch, mask_means=means) for batch in batches]


STATISTICS: dict[str, Callable[..., Statistic]] = {
    "mismatched_kl": MismatchedKL,
    "running_margin": RunningMargin,
    "running_reward": RunningReward,
}
"""By the name in a row of `METHODS`."""


def build_statistic(
    method: str, hyper: Mapping[str, Any], pairs: Sequence[TokenPair], layout: str, context: int
) -> Statistic | None:
    """The statistic of a method for runs on these pairs, or None if each of its losses needs one pair only."""
    row, statistic = METHODS[method], None
    loss_kwargs, masks = row.split_parameters(hyper)
    if row.statistic:
        parameters = {"hyper": loss_kwargs, "parameters": row.statistic_parameters(hyper)}
        own = load_object(row.statistic) if ":" in row.statistic else STATISTICS[row.statistic]
        statistic = own(pairs=pairs, layout=layout, context=context, **parameters)
    return MaskMeans(statistic) if masks.get("normalise") == "mean" else statistic
