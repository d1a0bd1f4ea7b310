"""Rounds of training on samples of the policy itself: their seeds, and their logs and records as one."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

ROUND_FIELDS = ("seeds", "code", "inputs", "seconds", "training_seconds", "pairs", "kept_step")
"""What the record of a whole run has for each round; all else is the same in all of them."""


def round_seed(seed: int, iteration: int) -> int:
    """32 bits for a round of a run with this seed; `iteration` 0, a run without rounds, has the seed itself."""
    if not iteration:
        return seed
    digest = hashlib.sha256(f"round {iteration} of seed {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def join_logs(logs: Sequence[Iterable[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Rows of the logs of all rounds, with the number of the `iteration`, and steps counted from round to round."""
    previous_steps = 0
    for iteration, rows in enumerate(logs, start=1):
        last = previous_steps
        for row in rows:
            last = max(last, previous_steps + row["step"])
            yield row | {"iteration": iteration, "step": previous_steps + row["step"]}
        previous_steps = last


def join_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of a run of rounds: that of the last, with the seconds of all, and what differs between them."""
    rounds = [
        {"iteration": iteration} | {name: record[name] for name in ROUND_FIELDS}
        for iteration, record in enumerate(records, start=1)
    ]
    seconds = {name: round(sum(record[name] for record in records), 2) for name in ("seconds", "training_seconds")}
    return {**records[-1], **seconds, "rounds": rounds}
