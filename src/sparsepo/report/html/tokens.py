"""What the token viewer shows: the pairs as text, and of each run what it did to every token of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsepo.report.html.pack import rounded, short
from sparsepo.runtime.errors import UserError

SIDES = ("chosen", "rejected")
MOST, FEWEST = 24, 2
"""Pairs that a page holds."""
NUMBERS = 500_000
"""That all runs of a task may say of tokens: about two megabytes of the page."""
TOP, OFTEN = 15, 3
"""Tokens of a list, and how often one has to occur to stand in it."""

QUANTITIES = {
    "log_ratio": "log-ratio: log π - log ref (nats)",
    "reverse_kl": "KL(π‖ref) (nats)",
    "forward_kl": "KL(ref‖π) (nats)",
    "m_u": "m_u, the mask of the reward",
    "m_d": "m_d, the mask of the KL",
    "weighted_log_ratio": "m_u · log-ratio (nats)",
    "weighted_kl": "m_d · KL(π‖ref) (nats)",
    "values": "what came with the pair: score of an oracle, log oracle/base (nats), or a weight",
}
"""Of a token; those with masks only where a run has masks, and values where its pairs bring some."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Pairs:
    """The pairs as text, the same for all runs of a task. `whole`: how many were looked into."""

    shown: list[dict[str, Any]]
    whole: int


def pairs_of(rows: Rows, runs: int) -> Pairs:
    """As many of the pairs in a run's file of tokens as a page with so many runs can hold."""
    a_pair = max(sum(len(row[side]["tokens"]) for side in SIDES) * len(QUANTITIES) for row in rows)
    count = min(MOST, max(FEWEST, NUMBERS // (a_pair * runs)))
    return Pairs([_text(row) for row in rows[:count]], len(rows))


def _text(row: Mapping[str, Any]) -> dict[str, Any]:
    sides = {side: {name: row[side][name] for name in ("tokens", "planted") if name in row[side]} for side in SIDES}
    return {"prompt": row["prompt"]} | sides


def values_of(rows: Rows, pairs: Pairs, run: str) -> list[dict[str, Any]]:
    """For each pair shown: the rewards that the loss gave, and each quantity of each token of both sides.

    Raises UserError when the run looked into other pairs.
    """
    found = []
    for row, pair in zip(rows, pairs.shown, strict=False):
        if len(rows) != pairs.whole or any(row[side]["tokens"] != pair[side]["tokens"] for side in SIDES):
            raise UserError(f"tokens/{run}.jsonl is not about the pairs of the other runs; delete it and run again")
        found.append({side: token_values(row[side]) for side in SIDES})
        found[-1]["reward"] = short([row[f"reward_{side}"] for side in SIDES])
    return found


def token_values(side: Mapping[str, Any]) -> dict[str, list[float]]:
    """Quantity -> a number for each token of a response."""
    ratio = [a - b for a, b in zip(side["logps"], side["ref_logps"], strict=True)]
    found = {"log_ratio": ratio, "reverse_kl": side["reverse_kl"], "forward_kl": side["forward_kl"]}
    if "m_u" in side:
        found |= {"m_u": side["m_u"], "m_d": side["m_d"]}
        found["weighted_log_ratio"] = [a * b for a, b in zip(side["m_u"], ratio, strict=True)]
        found["weighted_kl"] = [a * b for a, b in zip(side["m_d"], side["reverse_kl"], strict=True)]
    found |= {"values": side["values"]} if "values" in side else {}
    return {name: short(values) for name, values in found.items()}


def top_tokens(rows: Rows) -> dict[str, dict[str, list[list[Any]]]]:
    """Mask -> part of the pair -> [token, mean weight, how often it occurs], the largest mean weights first.

    Over all pairs that were looked into. White space around a token is left out; a token that occurs fewer than
    `OFTEN` times in that part is not listed. Empty for a run without masks.
    """
    if "m_u" not in rows[0]["chosen"]:
        return {}
    parts = {"both": SIDES, "chosen": SIDES[:1], "rejected": SIDES[1:]}
    return {
        mask: {part: _top((row[side], mask) for row in rows for side in sides) for part, sides in parts.items()}
        for mask in ("m_u", "m_d")
    }


def _top(sides: Iterable[tuple[Mapping[str, Any], str]]) -> list[list[Any]]:
    weights: dict[str, list[float]] = {}
    for side, mask in sides:
        for token, weight in zip(side["tokens"], side[mask], strict=True):
            weights.setdefault(token.strip() or repr(token), []).append(weight)
    means = [[token, sum(found) / len(found), len(found)] for token, found in weights.items() if len(found) >= OFTEN]
    best = sorted(means, key=lambda row: (-row[1], row[0]))[:TOP]
    return [[token, rounded(mean), count] for token, mean, count in best]
