"""Everything that is measured of one run, as the plain numbers that tables and figures read."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from sparsepo.data.chat import plain_text
from sparsepo.data.encoding import Encoder, TokenPair, encode_pairs
from sparsepo.data.planted import polar_spans
from sparsepo.data.records import Preference
from sparsepo.data.token_spans import mark_overlaps, split_tokens
from sparsepo.evaluation.frontier import ScoredSamples
from sparsepo.evaluation.statistics import distinct_n
from sparsepo.runtime.errors import UserError

SIDES = ("chosen", "rejected")


# --- sampled responses


def sample_scores(samples: ScoredSamples) -> dict[str, Any]:
    """Reward, divergence, entropy (-log pi) and length of each response, distinct-n of all."""
    tokens = [row.tokens for row in samples.completions]
    return {
        "prompt_ids": _prompt_numbers(samples),
        "reward": samples.rewards.get("reward", []),
        "kl_sample": [row.sample for row in samples.divergences],
        "kl_exact": [row.exact for row in samples.divergences],
        "entropy": [-row.logp for row in samples.divergences],
        "length": [len(ids) for ids in tokens],
        "distinct_1": distinct_n(tokens, 1),
        "distinct_2": distinct_n(tokens, 2),
    }


def sample_measurements(samples: ScoredSamples) -> dict[str, dict[str, list]]:
    """The scores of each scorer, the exact KL and the length, as values with the prompt of each."""
    measures = samples.rewards | {
        "kl": [row.exact for row in samples.divergences],
        "length": [len(row.tokens) for row in samples.completions],
    }
    groups = _prompt_numbers(samples)
    return {name: {"values": list(values), "groups": groups} for name, values in measures.items() if groups}


def _prompt_numbers(samples: ScoredSamples) -> list[int]:
    """The number of each response's prompt."""
    prompts = dict.fromkeys(row.prompt for row in samples.completions)
    numbers = {prompt: number for number, prompt in enumerate(prompts)}
    return [numbers[row.prompt] for row in samples.completions]


# --- pairs, token by token


def encode_usable(
    tokenizer: Any, pairs: Sequence[Preference], limits: tuple[int, int, int], count: int
) -> tuple[list[Preference], list[TokenPair]]:
    """The first `count` pairs that training could use, as records and as token ids.

    limits: the longest prompt, the longest response, and the model's context, in tokens. Raises UserError if no pair is
    usable.
    """
    encoded = encode_pairs(Encoder(tokenizer), pairs, *limits)
    if not encoded.pairs:
        raise UserError(f"none of the {len(pairs)} validation pairs can be analysed; dropped: {encoded.dropped}")
    return [pairs[index] for index in encoded.indices[:count]], encoded.pairs[:count]


def token_records(
    tokenizer: Any,
    pairs: Sequence[Preference],
    encoded: Sequence[TokenPair],
    inspected: Sequence[dict[str, Any]],
    planted: bool,
) -> list[dict[str, Any]]:
    """What `inspect_pairs` returned, with the prompt and each token as text, and whether the token was planted.

    Of a chat the last message stands for the prompt.
    """
    records = []
    for pair, ids, inspection in zip(pairs, encoded, inspected, strict=True):
        record = {"prompt": pair.prompt if pair.messages is None else plain_text(pair.messages[-1:])} | inspection
        if pair.rejected_prompt is not None:
            record["prompt"] += f"\n[prompt of the rejected response: {pair.rejected_prompt}]"
        for side in SIDES:
            text = getattr(pair, side)
            pieces, spans = split_tokens(tokenizer, text, getattr(ids, side))
            record[side] = {"tokens": pieces} | inspection[side]
            if planted:
                record[side]["planted"] = mark_overlaps(spans, polar_spans(text))
        records.append(record)
    return records


# --- numbers of token records


def pair_accuracy(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, list]]:
    """Share of pairs whose chosen response has the higher implicit reward; equal rewards count one half."""
    margins = np.array([record["reward_chosen"] - record["reward_rejected"] for record in records])
    values = np.where(margins == 0, 0.5, margins > 0).tolist()
    return {"accuracy": {"values": values, "groups": list(range(len(values)))}}


SELECTED_BY = {"selected": "oracle_score", "excess": "excess"}
"""Mask -> the signal whose highest tokens it keeps."""


def planted_auc(records: Sequence[dict[str, Any]], mask: str = "none") -> dict[str, dict[str, float | None]]:
    """ROC AUC with which token signals rank planted tokens above the others, all pairs pooled.

    The signals are token weights, |log pi/ref|, and what a `mask` selects by: an oracle's scores, negated for rejected
    responses, of which the lowest are kept, or the excess. None where all tokens or none are planted.
    """
    signals = [*used_masks(records), "abs_logratio", *([SELECTED_BY[mask]] if mask in SELECTED_BY else [])]
    return {name: {side: _auc(records, side, name) for side in SIDES} for name in signals}


def _auc(records: Sequence[dict[str, Any]], side: str, signal: str) -> float | None:
    from sklearn.metrics import roc_auc_score

    labels = [label for record in records for label in record[side]["planted"]]
    if len(set(labels)) < 2:
        return None
    return float(roc_auc_score(labels, np.concatenate([_signal(record[side], side, signal) for record in records])))


def _signal(tokens: dict[str, Any], side: str, name: str) -> np.ndarray:
    if name in tokens:
        return np.asarray(tokens[name])
    logratio = np.subtract(tokens["logps"], tokens["ref_logps"])
    if name == "abs_logratio":
        return np.abs(logratio)
    values = np.asarray(tokens["values"])
    return values - logratio if name == "excess" else values if side == "chosen" else -values


def used_masks(records: Sequence[dict[str, Any]]) -> list[str]:
    """Which of m_u and m_d the method has; a mask that is 1 on every token is not counted."""
    return [
        name
        for name in ("m_u", "m_d")
        if name in records[0]["chosen"]
        and any(weight != 1 for record in records for side in SIDES for weight in record[side][name])
    ]


def mask_sparsity(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Share of exact zeros of each mask over response tokens; empty for a method without masks."""
    return {
        name: {side: fmean(weight == 0 for record in records for weight in record[side][name]) for side in SIDES}
        for name in used_masks(records)
    }


def logp_change(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean over pairs of the summed log pi - log ref of each side."""
    return {
        side: fmean(sum(record[side]["logps"]) - sum(record[side]["ref_logps"]) for record in records) for side in SIDES
    }


def mask_measurements(auc: dict[str, Any], sparsity: dict[str, Any]) -> dict[str, dict[str, list]]:
    """AUC and share of zeros of a run's masks as measurements of one value, for the table of its rewards."""
    values = {f"auc_{name}": sides["chosen"] for name, sides in auc.items() if name != "abs_logratio"}
    values |= {f"zeros_{name}": fmean(sides.values()) for name, sides in sparsity.items()}
    return {name: {"values": [value], "groups": [0]} for name, value in values.items() if value is not None}
