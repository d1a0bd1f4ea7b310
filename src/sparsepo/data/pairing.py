"""From scored responses to preferences; what cannot be a pair is counted with its place."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from sparsepo.data.records import Completion, Preference, Scored

QUOTES = ('"', "'", "(")


Found = tuple[str, str, Preference]
"""(place, subset, pair): where a pair stands, and the part of the data it belongs to, if there are several."""


@dataclass
class PairBuilder:
    """Pairs that can be used, how many rows were dropped for which reason, and where the first of each stood."""

    pairs: list[Preference] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, place: str) -> None:
        self.dropped[reason] += 1
        self.first.setdefault(reason, place)

    def add(self, pair: Preference, place: str) -> None:
        """Keep a pair if it is usable."""
        if self.usable(pair, place):
            self.pairs.append(pair)

    def usable(self, pair: Preference, place: str) -> bool:
        """Whether a pair has no empty part and two different responses; if not, it is counted as dropped."""
        empty = [name for name in ("prompt", "chosen", "rejected") if not getattr(pair, name).strip()]
        if empty:
            self.drop(f"field '{empty[0]}' is empty", place)
        elif pair.chosen == pair.rejected:
            self.drop("chosen and rejected are equal", place)
        return not empty and pair.chosen != pair.rejected

    @property
    def summary(self) -> dict:
        rows = [{"reason": reason, "count": n, "first": self.first[reason]} for reason, n in self.dropped.items()]
        return {"pairs": len(self.pairs), "dropped": rows}

    def __str__(self) -> str:
        lost = [f"{n} dropped: {reason} (first: {self.first[reason]})" for reason, n in self.dropped.items()]
        return "; ".join([f"{len(self.pairs)} pairs", *lost])


def spaced(text: str) -> str:
    """A response that begins with a word follows its prompt after a space, which some files leave out."""
    return f" {text}" if text[:1].isalnum() or text.startswith(QUOTES) else text


def best_and_worst(rows: Iterable[tuple[str, Scored]]) -> PairBuilder:
    """One pair a prompt: the response of highest reward against that of lowest; the first wins among equals.

    rows: (place, record). A prompt with one response, or with equal rewards only, gives no pair; empty responses are
    dropped before anything is compared.
    """
    made = PairBuilder()
    for place, pair in extremes(rows, made):
        made.add(pair, place)
    return made


def extremes(rows: Iterable[tuple[str, Scored]], made: PairBuilder) -> Iterator[tuple[str, Preference]]:
    """(place, pair) of each prompt, as in `best_and_worst`; what gives no pair is dropped into `made`."""
    groups: dict[str, list[tuple[str, Scored]]] = {}
    for place, row in rows:
        if not row.text.strip():
            made.drop("field 'text' is empty", place)
        else:
            groups.setdefault(row.prompt, []).append((place, row))
    for responses in groups.values():
        place, best = max(responses, key=lambda pair: pair[1].reward)
        _, worst = min(responses, key=lambda pair: pair[1].reward)
        if len(responses) < 2:
            made.drop("the only response of its prompt", place)
        elif best.reward == worst.reward:
            made.drop("all responses of the prompt have the same reward", place)
        else:
            yield place, _pair(best, worst)


def _pair(best: Scored, worst: Scored) -> Preference:
    return Preference(
        prompt=best.prompt,
        chosen=best.text,
        rejected=worst.text,
        chosen_score=best.reward,
        rejected_score=worst.reward,
        chosen_ended=best.ended,
        rejected_ended=worst.ended,
    )


Attempt = tuple[Completion, bool]  # a program, and whether it passed


def passing_against_failing(groups: Mapping[str, Sequence[Attempt]], epochs: int, seed: int) -> PairBuilder:
    """A pair for each prompt and epoch; no pair of a prompt comes again before all of it have been used.

    groups: prompt -> its programs. Kept are prompts with two passing programs and a failing one, which differ by more
    than the space around them; a program that did both, as one does that draws numbers, counts as passing. The other
    prompts are dropped and counted. A prompt's pairs do not depend on which other prompts there are.
    """
    made = PairBuilder()
    orders: dict[str, list[tuple[Completion, Completion]]] = {}
    for prompt, attempts in groups.items():
        passing, failing = _distinct(attempts)
        place = (attempts[0][0].id if attempts else "") or repr(prompt)
        if len(passing) < 2:
            made.drop("fewer than two different programs pass", place)
        elif not failing:
            made.drop("no program fails", place)
        else:
            orders[prompt] = list(product(passing, failing))
            random.Random(f"{seed} {prompt}").shuffle(orders[prompt])
    for epoch in range(epochs):
        for prompt, order in orders.items():
            made.add(_attempt_pair(prompt, *order[epoch % len(order)], epoch), repr(prompt))
    return made


def _distinct(attempts: Sequence[Attempt]) -> tuple[list[Completion], list[Completion]]:
    """Passing and failing programs, the first of each text; an empty one is none."""
    passing: dict[str, Completion] = {}
    failing: dict[str, Completion] = {}
    for row, passed in attempts:
        if text := row.text.strip():
            (passing if passed else failing).setdefault(text, row)
    return list(passing.values()), [row for text, row in failing.items() if text not in passing]


def _attempt_pair(prompt: str, chosen: Completion, rejected: Completion, epoch: int) -> Preference:
    return Preference(
        prompt=prompt,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_ended=chosen.ended,
        rejected_ended=rejected.ended,
        epoch=epoch,
    )


def subsample_prompts(pairs: Sequence[Preference], share: float, seed: int) -> list[Preference]:
    """The pairs of floor(share * N) of their N prompts, at least one, in their order.

    For one seed the prompts of a smaller share are among those of a larger one.
    """
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    random.Random(seed).shuffle(prompts)
    kept = set(prompts[: max(1, int(share * len(prompts) + 1e-6))])  # 0.29 * 100 is a little less than 29
    return [pair for pair in pairs if pair.prompt in kept]
