"""How well signals of tokens find the planted ones: masks, log-ratios, and controls that learned nothing.

Two truths (see `data.planted`): the relevant `words` that are there, and the `slots`, positions where one may stand.
Each against all other tokens, or `among_slots`: against the other positions whose word is chosen in the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsepo.evaluation.statistics import auc_interval

SIDES = ("chosen", "rejected")
Tokens = Mapping[str, Any]
"""A side of a token record: lists with a number for each token."""

COMPARISONS = {
    "slots_among_slots": ("planted_slots", "open_slots"),
    "words_among_slots": ("planted", "open_slots"),
    "slots": ("planted_slots", None),
    "words": ("planted", None),
}
"""Name -> the fields of a token record with the tokens to find, and with those that are ranked (None: all)."""

CONTROLS = ("entropy", "surprisal", "random", "position")
CEILING = "ceiling"
SELECTED_BY = {"selected": "oracle_score", "excess": "excess"}
"""Mask -> the signal whose highest tokens it keeps."""


def planted_auc(records: Sequence[Mapping[str, Any]], signals: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Signal -> name of `COMPARISONS` -> `auc`, `low`, `high`: the ROC AUC over the tokens of both responses of all
    pairs, and its 95% bootstrap interval, which resamples pairs.

    Signals are those of `method_signals`, or controls:
    entropy: of the reference where it predicts the token. surprisal: its -log ref. random: new numbers.
    position: the index in the response, from 0. ceiling: the probability, by the grammar, that the token is relevant
    given the text before it, which no signal that reads only this text ranks better.
    A comparison without both kinds of tokens is left out.
    """
    sides = [(number, side, record[side]) for number, record in enumerate(records) for side in SIDES]
    pairs = np.repeat([number for number, *_ in sides], [len(tokens["logps"]) for *_, tokens in sides])
    generator = np.random.default_rng(0)
    values = {
        signal: np.concatenate([_values(tokens, side, signal, generator) for _, side, tokens in sides])
        for signal in signals
    }
    result: dict[str, dict[str, dict[str, float]]] = {signal: {} for signal in signals}
    for name, (truth, among) in COMPARISONS.items():
        labels = _flags(sides, truth)
        ranked = np.full(len(labels), True) if among is None else _flags(sides, among) | labels
        if len(set(labels[ranked])) < 2:
            continue
        for signal in signals:
            interval = auc_interval(labels[ranked], values[signal][ranked], pairs[ranked])
            result[signal][name] = {"auc": interval.mean, "low": interval.low, "high": interval.high}
    return result


def method_signals(records: Sequence[Mapping[str, Any]], mask: str = "none") -> list[str]:
    """The signals of a run: its masks, |log pi/ref|, and what a `mask` selects by: an oracle's scores, negated for
    rejected responses, of which the lowest are kept, or the excess."""
    return [*used_masks(records), "abs_logratio", *([SELECTED_BY[mask]] if mask in SELECTED_BY else [])]


def used_masks(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of m_u and m_d the method has; a mask that is 1 on every token is not counted."""
    return [
        name
        for name in ("m_u", "m_d")
        if name in records[0]["chosen"]
        and any(weight != 1 for record in records for side in SIDES for weight in record[side][name])
    ]


def _flags(sides: Sequence[tuple[int, str, Tokens]], field: str) -> np.ndarray:
    return np.concatenate([np.asarray(tokens[field], dtype=bool) for *_, tokens in sides])


def _values(tokens: Tokens, side: str, signal: str, generator: np.random.Generator) -> np.ndarray:
    return np.asarray(_SIGNALS[signal](tokens, side, generator), dtype=np.float64)


def _logratio(tokens: Tokens) -> np.ndarray:
    return np.subtract(tokens["logps"], tokens["ref_logps"])


def _oracle_score(tokens: Tokens, side: str) -> np.ndarray:
    values = np.asarray(tokens["values"])
    return values if side == "chosen" else -values


_SIGNALS: dict[str, Callable[[Tokens, str, np.random.Generator], Any]] = {
    "m_u": lambda tokens, *_: tokens["m_u"],
    "m_d": lambda tokens, *_: tokens["m_d"],
    "abs_logratio": lambda tokens, *_: np.abs(_logratio(tokens)),
    "oracle_score": lambda tokens, side, _: _oracle_score(tokens, side),
    "excess": lambda tokens, *_: np.asarray(tokens["values"]) - _logratio(tokens),
    "entropy": lambda tokens, *_: tokens["ref_entropy"],
    "surprisal": lambda tokens, *_: np.negative(tokens["ref_logps"]),
    "random": lambda tokens, _, generator: generator.random(len(tokens["logps"])),
    "position": lambda tokens, *_: range(len(tokens["logps"])),
    "ceiling": lambda tokens, *_: tokens["relevance_chance"],
}
