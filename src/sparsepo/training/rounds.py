"""Rounds of training on samples of the policy itself: their seeds, their pairs, and their logs as one."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import encode_pairs, encode_response
from sparsepo.data.records import Preference
from sparsepo.models import context_of
from sparsepo.training.reference import computed

OF_EACH = ("seeds", "code", "inputs", "seconds", "training_seconds", "pairs", "kept_step")
"""What the record of a whole run keeps of each round; all else is the same in all of them."""


def seed_of(seed: int, iteration: int) -> int:
    """32 bits for a round of a run with this seed; `iteration` 0, which is no round, has the seed itself."""
    if not iteration:
        return seed
    digest = hashlib.sha256(f"round {iteration} of seed {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def with_logps(
    model: Any, tokenizer: Any, pairs: Sequence[Preference], config: PreferenceConfig
) -> tuple[list[Preference], dict[str, int]]:
    """The pairs that can train, each with the model's log-probs (nats) of its tokens as `values`; why others cannot.

    They are of the tokens that training reads, which are those of the text, not always those that were sampled. What is
    cut there has 0, as nobody reads it.
    """
    limits = config.max_prompt_tokens, config.max_response_tokens, context_of(model)
    encoded = encode_pairs(tokenizer, pairs, *limits)
    known = dict(computed(model, encoded.pairs, "logps", config))
    made = []
    for at, place in enumerate(encoded.kept):
        pair, logps, first = pairs[place], known[at].tolist(), len(encoded.pairs[at].chosen)
        sizes = [
            len(encode_response(tokenizer, text, ended))
            for text, ended in ((pair.chosen, pair.chosen_ended), (pair.rejected, pair.rejected_ended))
        ]
        chosen, rejected = (
            part + [0.0] * (size - len(part)) for part, size in zip((logps[:first], logps[first:]), sizes, strict=True)
        )
        made.append(replace(pair, chosen_values=chosen, rejected_values=rejected))
    return made, encoded.dropped


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
