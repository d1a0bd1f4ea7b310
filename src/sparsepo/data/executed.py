"""From programs that were run against their tests to preferences: one that passes against one that fails."""

import random
from collections.abc import Mapping, Sequence
from itertools import product

from sparsepo.data.pairing import Pairing
from sparsepo.data.records import Completion, Preference

Attempt = tuple[Completion, bool]  # a program, and whether it passed


def passing_against_failing(groups: Mapping[str, Sequence[Attempt]], epochs: int, seed: int) -> Pairing:
    """A pair for each prompt and epoch; no pair of a prompt comes again before all of it have been used.

    groups: prompt -> its programs. Kept are prompts with two passing programs and a failing one, which differ by more
    than the space around them; a program that did both, as one does that draws numbers, counts as passing. The other
    prompts are dropped and counted. A prompt's pairs do not depend on which other prompts there are.
    """
    made = Pairing()
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
            made.add(_pair(prompt, *order[epoch % len(order)], epoch), repr(prompt))
    return made


def _distinct(attempts: Sequence[Attempt]) -> tuple[list[Completion], list[Completion]]:
    """Passing and failing programs, the first of each text; an empty one is none."""
    passing: dict[str, Completion] = {}
    failing: dict[str, Completion] = {}
    for row, passed in attempts:
        if text := row.text.strip():
            (passing if passed else failing).setdefault(text, row)
    return list(passing.values()), [row for text, row in failing.items() if text not in passing]


def _pair(prompt: str, chosen: Completion, rejected: Completion, epoch: int) -> Preference:
    return Preference(
        prompt=prompt,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_ended=chosen.ended,
        rejected_ended=rejected.ended,
        epoch=epoch,
    )
