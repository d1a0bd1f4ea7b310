"""What the token viewer shows: the pairs as text, and of each run the values of every token of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparsepo.report.html.packing import rounded
from sparsepo.runtime.errors import UserError

_SIDES = ("chosen", "rejected")
MAX_PAIRS, MIN_PAIRS = 24, 2  # that a page holds
MAX_NUMBERS = 500_000  # of all tokens of all runs of a task: about two megabytes of the page
TOP, MIN_COUNT = 15, 3  # tokens of a list, and how often one has to occur to be in it

TOKEN_QUANTITIES = {
    "log_ratio": "log-ratio: log π - log ref (nats)",
    "reverse_kl": "KL(π‖ref) (nats)",
    "forward_kl": "KL(ref‖π) (nats)",
    "m_u": "m_u, the mask of the reward",
    "m_d": "m_d, the mask of the KL",
    "weighted_log_ratio": "m_u · log-ratio (nats)",
    "weighted_kl": "m_d · KL(π‖ref) (nats)",
    "values": "what came with the pair: an oracle's score (log-ratio in nats, or size of a gradient), or a weight",
}
"""Of a token; those with masks only where a run has masks, and values where its pairs bring some."""

TokenRows = Sequence[Mapping[str, Any]]
"""The rows of a run's file of tokens, one per pair."""


def choose_pairs(rows: TokenRows, runs: int) -> list[dict[str, Any]]:
    """As many of the pairs, as text, as a page with so many runs can hold."""
    values = max(sum(len(row[side]["tokens"]) for side in _SIDES) * len(TOKEN_QUANTITIES) for row in rows)
    count = min(MAX_PAIRS, max(MIN_PAIRS, MAX_NUMBERS // (values * runs)))
    names = ("tokens", "planted")
    sides = [
        {side: {name: row[side][name] for name in names if name in row[side]} for side in _SIDES}
        for row in rows[:count]
    ]
    return [{"prompt": row["prompt"]} | texts for row, texts in zip(rows, sides, strict=False)]


def values_by_pair(rows: TokenRows, pairs: TokenRows, total: int, run: str) -> list[dict[str, Any]]:
    """For each pair shown: the rewards that the loss gave, and each quantity of each token of both sides.

    Raises UserError when the run inspected other pairs, or not `total`.
    """
    values = []
    for row, pair in zip(rows, pairs, strict=False):
        if len(rows) != total or any(row[side]["tokens"] != pair[side]["tokens"] for side in _SIDES):
            raise UserError(f"tokens/{run}.jsonl is not about the pairs of the other runs; delete it and run again")
        rewards = rounded([row[f"reward_{side}"] for side in _SIDES])
        values.append({side: token_values(row[side]) for side in _SIDES} | {"reward": rewards})
    return values


def token_values(side: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Quantity -> a number for each token of a response."""
    ratio = [a - b for a, b in zip(side["logps"], side["ref_logps"], strict=True)]
    values = {"log_ratio": ratio, "reverse_kl": side["reverse_kl"], "forward_kl": side["forward_kl"]}
    if "m_u" in side:
        values |= {"m_u": side["m_u"], "m_d": side["m_d"]}
        values["weighted_log_ratio"] = [a * b for a, b in zip(side["m_u"], ratio, strict=True)]
        values["weighted_kl"] = [a * b for a, b in zip(side["m_d"], side["reverse_kl"], strict=True)]
    values |= {"values": side["values"]} if "values" in side else {}
    return rounded(values)


def top_tokens(rows: TokenRows) -> dict[str, dict[str, list[list[Any]]]]:
    """Mask -> part of the pair -> [token, mean weight, how often it occurs], the largest mean weights first.

    Over all pairs that were inspected. White space around a token is left out; a token that occurs fewer than
    `MIN_COUNT` times in that part is not listed. Empty for a run without masks.
    """
    if "m_u" not in rows[0]["chosen"]:
        return {}
    parts = {"both": _SIDES, "chosen": _SIDES[:1], "rejected": _SIDES[1:]}
    return {
        mask: {part: _top((row[side], mask) for row in rows for side in sides) for part, sides in parts.items()}
        for mask in ("m_u", "m_d")
    }


def _top(sides: Iterable[tuple[Mapping[str, Any], str]]) -> list[list[Any]]:
    weights: dict[str, list[float]] = {}
    for side, mask in sides:
        for token, weight in zip(side["tokens"], side[mask], strict=True):
            weights.setdefault(token.strip() or repr(token), []).append(weight)
    means = [[token, sum(own) / len(own), len(own)] for token, own in weights.items() if len(own) >= MIN_COUNT]
    best = sorted(means, key=lambda row: (-row[1], row[0]))[:TOP]
    return [[token, rounded(mean), count] for token, mean, count in best]
