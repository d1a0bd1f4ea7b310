"""Rounds of training on samples of the policy itself: their seeds, and their logs and records as one."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

OF_EACH = ("seeds", "code", "inputs", "seconds", "training_seconds", "pairs", "kept_step")
"""What the record of a whole run keeps of each round; all else is the same in all of them."""


def seed_of(seed: int, iteration: int) -> int:
    """32 bits for a round of a run with this seed; `iteration` 0, which is no round, has the seed itself."""
    if not iteration:
        return seed
    digest = hashlib.sha256(f"round {iteration} of seed {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def joined(rounds: Sequence[Iterable[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Rows of the logs of all rounds, with the number of the `iteration`, and steps counted on from round to round."""
    before = 0
    for iteration, rows in enumerate(rounds, start=1):
        last = before
        for row in rows:
            last = max(last, before + row["step"])
            yield row | {"iteration": iteration, "step": before + row["step"]}
        before = last


def record_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of a run of rounds: that of the last, with the seconds of all, and what differs between them."""
    rounds = [{"iteration": at} | {name: one[name] for name in OF_EACH} for at, one in enumerate(records, start=1)]
    whole = {name: round(sum(one[name] for one in records), 2) for name in ("seconds", "training_seconds")}
    return {**records[-1], **whole, "rounds": rounds}
