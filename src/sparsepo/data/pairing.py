"""From scored responses to preferences; what cannot be a pair is counted with its place."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any, NamedTuple

from sparsepo.data.records import Completion, Preference, Scored

STARTS_A_WORD = re.compile(r"[\"'(]*[0-9A-Za-z\u00c0-\u058f\u05d0-\u06ff\u0900-\u0dff\u10a0-\u10ff]")
"""Of scripts that put spaces between words."""


class PlacedPair(NamedTuple):
    """A pair, where it stands in the data, and the subset of the data it belongs to, if there are several."""

    place: str
    subset: str
    pair: Preference


@dataclass
class PairBuilder:
    """Pairs that can be used, how many rows were dropped for which reason, and where the first of each stands.

    notes: what a reader has to know of the scores that made the pairs.
    """

    pairs: list[Preference] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, place: str) -> None:
        """Count a row that gives no pair."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, place)

    def add(self, pair: Preference, place: str) -> None:
        """Keep a pair if it is usable."""
        if self.is_usable(pair, place):
            self.pairs.append(pair)

    def is_usable(self, pair: Preference, place: str) -> bool:
        """Whether a pair has no empty part and two different responses; if not, it is counted as dropped."""
        empty = [name for name in ("prompt", "chosen", "rejected") if not getattr(pair, name).strip()]
        if empty:
            self.drop(f"field '{empty[0]}' is empty", place)
        equal = pair.chosen == pair.rejected and pair.rejected_prompt is None
        if equal and not empty:
            self.drop("chosen and rejected are equal", place)
        return not (empty or equal)

    @property
    def summary(self) -> dict:
        """The same as JSON."""
        rows = [{"reason": reason, "count": n, "first": self.first[reason]} for reason, n in self.dropped.items()]
        return {"pairs": len(self.pairs), "dropped": rows} | ({"notes": self.notes} if self.notes else {})

    def __str__(self) -> str:
        reasons = [f"{n} dropped: {reason} (first: {self.first[reason]})" for reason, n in self.dropped.items()]
        return "; ".join([f"{len(self.pairs)} pairs", *reasons])


def add_space(prompt: str, text: str) -> str:
    """A response with the space before its first word that some files leave out.

    Not after white space, and not in scripts that are written without spaces.

    >>> add_space("Is it?", "Yes"), add_space("Is it?", ", but"), add_space("So:\\n", "Yes"), add_space("好吗？", "好")
    (' Yes', ', but', 'Yes', '好')
    """
    return f" {text}" if prompt and not prompt[-1].isspace() and STARTS_A_WORD.match(text) else text


def best_and_worst(rows: Iterable[tuple[str, Scored]]) -> PairBuilder:
    """One pair of each prompt: the response of highest reward against that of lowest; the first wins among equals.

    rows: (place, record). A prompt with one response, or with equal rewards only, gives no pair; empty responses are
    dropped before anything is compared.
    """
    builder = PairBuilder()
    for place, pair in best_and_worst_pairs(rows, builder):
        builder.add(pair, place)
    return builder


def best_and_worst_pairs(rows: Iterable[tuple[str, Scored]], builder: PairBuilder) -> Iterator[tuple[str, Preference]]:
    """(place, pair) of each prompt, as in `best_and_worst`; `builder` counts what gives no pair."""
    candidates = []
    for place, row in rows:
        if row.text.strip():
            candidates.append(Candidate(place, row.prompt, row.reward, row))
        else:
            builder.drop("field 'text' is empty", place)
    for (place, _, _, best), (_, _, _, worst) in best_against_worst(candidates, builder):
        scores = {"chosen_score": best.reward, "rejected_score": worst.reward}
        ended = {"chosen_ended": best.ended, "rejected_ended": worst.ended}
        ids = {"chosen_ids": best.tokens, "rejected_ids": worst.tokens}
        chat = {"messages": best.messages, "rendered": best.rendered}
        yield place, Preference(best.prompt, best.text, worst.text, **scores, **ended, **ids, **chat)


class Candidate(NamedTuple):
    """A response with its reward; `prompt` says which responses compete, and `item` is what the caller wants back."""

    place: str
    prompt: str
    reward: float
    item: Any


def best_against_worst(candidates: Iterable[Candidate], builder: PairBuilder) -> Iterator[tuple[Candidate, Candidate]]:
    """(best, worst) of each prompt, the first among equals; `builder` counts prompts that give no pair."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.prompt, []).append(candidate)
    for group in groups.values():
        best = max(group, key=lambda each: each.reward)
        worst = min(group, key=lambda each: each.reward)
        if len(group) < 2:
            builder.drop("the only response of its prompt", best.place)
        elif best.reward == worst.reward:
            builder.drop("all responses of the prompt have the same reward", best.place)
        else:
            yield best, worst


Attempt = tuple[Completion, bool]
"""A program, and whether it passed."""


def passing_against_failing(groups: Mapping[str, Sequence[Attempt]], epochs: int, seed: int) -> PairBuilder:
    """A pair of each prompt for each epoch; no pair of a prompt is used again before all of them have been used.

    groups: prompt -> its programs. A prompt needs two passing programs and a failing one, which differ by more than the
    white space around them; a program that passed once and failed once counts as passing. The other prompts are dropped
    and counted. A prompt's pairs do not depend on which other prompts there are.
    """
    builder = PairBuilder()
    orders: dict[str, list[tuple[Completion, Completion]]] = {}
    for prompt, attempts in groups.items():
        passing, failing = _distinct(attempts)
        place = (attempts[0][0].id if attempts else "") or repr(prompt)
        if len(passing) < 2:
            builder.drop("fewer than two different programs pass", place)
        elif not failing:
            builder.drop("no program fails", place)
        else:
            orders[prompt] = list(product(passing, failing))
            random.Random(f"{seed} {prompt}").shuffle(orders[prompt])
    for epoch in range(epochs):
        for prompt, order in orders.items():
            chosen, rejected = order[epoch % len(order)]
            ended = {"chosen_ended": chosen.ended, "rejected_ended": rejected.ended}
            chat = {"messages": chosen.messages, "rendered": chosen.rendered}
            builder.add(Preference(prompt, chosen.text, rejected.text, **ended, epoch=epoch, **chat), repr(prompt))
    return builder


def _distinct(attempts: Sequence[Attempt]) -> tuple[list[Completion], list[Completion]]:
    """Passing and failing programs, the first of each text; an empty program is left out."""
    passing: dict[str, Completion] = {}
    failing: dict[str, Completion] = {}
    for row, passed in attempts:
        if text := row.text.strip():
            (passing if passed else failing).setdefault(text, row)
    return list(passing.values()), [row for text, row in failing.items() if text not in passing]


def subsample_prompts(pairs: Sequence[Preference], share: float, seed: int) -> list[Preference]:
    """The pairs of floor(share * N) of their N prompts, at least one, in their order.

    For one seed the prompts of a smaller share are among those of a larger one.
    """
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    random.Random(seed).shuffle(prompts)
    count = max(1, int(share * len(prompts) + 1e-6))  # 0.29 * 100 is a little less than 29
    chosen = set(prompts[:count])
    return [pair for pair in pairs if pair.prompt in chosen]


def swap_responses(pair: Preference) -> Preference:
    """The pair with all that belongs to chosen and rejected swapped, and the prompts where there are two."""
    swapped = {}
    for name in (each.name for each in fields(Preference)):
        if name.startswith("chosen"):
            other = name.replace("chosen", "rejected", 1)
            swapped |= {name: getattr(pair, other), other: getattr(pair, name)}
    if pair.rejected_prompt is not None:
        swapped |= {"prompt": pair.rejected_prompt, "rejected_prompt": pair.prompt, "messages": None}
    return replace(pair, **swapped)
