"""Everything that is measured of one run, as the plain numbers that tables and figures read."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from sparsepo.data.chat import plain_text
from sparsepo.data.encoding import Encoder, TokenPair, encode_pairs
from sparsepo.data.planted import Span, open_spans, planted_spans, relevance_chances
from sparsepo.data.records import Preference
from sparsepo.data.token_spans import mark_overlaps, split_tokens
from sparsepo.evaluation.frontier import ScoredSamples
from sparsepo.evaluation.planted_auc import SIDES, used_masks
from sparsepo.evaluation.statistics import distinct_n
from sparsepo.runtime.errors import UserError

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
    """The scores of each scorer, the exact KL of a response and per token, and the length, with the prompt of each."""
    measures = samples.rewards | {
        "kl": [row.exact for row in samples.divergences],
        "kl_per_token": [
            divergence.exact / max(len(row.tokens), 1)
            for divergence, row in zip(samples.divergences, samples.completions, strict=True)
        ],
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
    """What `inspect_pairs` returned, with the prompt and each token as text, and of planted texts what the token is.

    `planted`: whether it is a relevant word; `planted_slots`: whether one may stand there; `open_slots`: one, or a word
    that is chosen in the same way; `relevance_chance`: the probability of a relevant word given the text before it. Of
    a chat the last message stands for the prompt.
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
                record[side] |= planted_marks(spans, text, pair.prompt)
        records.append(record)
    return records


def planted_marks(tokens: Sequence[Span], text: str, prompt: str) -> dict[str, list]:
    """The four fields of `token_records` that tell what was planted, for the tokens of a response to a prompt."""
    chances = relevance_chances(text, prompt)
    return {
        "planted": mark_overlaps(tokens, planted_spans(text, "words")),
        "planted_slots": mark_overlaps(tokens, planted_spans(text, "slots", prompt)),
        "open_slots": mark_overlaps(tokens, open_spans(text, prompt)),
        "relevance_chance": [
            max((chance for span, chance in chances if mark_overlaps([token], [span])[0]), default=0.0)
            for token in tokens
        ],
    }


# --- numbers of token records


def pair_accuracy(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, list]]:
    """Share of pairs whose chosen response has the higher implicit reward; equal rewards count one half."""
    values = _are_right(records)
    return {"accuracy": {"values": values, "groups": list(range(len(values)))}}


def _are_right(records: Sequence[dict[str, Any]]) -> list[float]:
    margins = np.array([record["reward_chosen"] - record["reward_rejected"] for record in records])
    return np.where(margins == 0, 0.5, margins > 0).tolist()


def accuracy_by_length(records: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """`pair_accuracy` of the pairs whose chosen response has more tokens than the rejected one (longer), fewer
    (shorter) or as many (equal); None where there is no such pair."""
    right: dict[str, list[float]] = {"longer": [], "shorter": [], "equal": []}
    for record, value in zip(records, _are_right(records), strict=True):
        chosen, rejected = (len(record[side]["tokens"]) for side in SIDES)
        right["longer" if chosen > rejected else "shorter" if chosen < rejected else "equal"].append(value)
    return {name: fmean(values) if values else None for name, values in right.items()}


def mask_sparsity(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Share of exact zeros of each mask over response tokens; empty for a method without masks."""
    return {
        name: {side: fmean(weight == 0 for record in records for weight in record[side][name]) for side in SIDES}
        for name in used_masks(records)
    }


def mean_weight(records: Sequence[dict[str, Any]]) -> float | None:
    """Mean m_u of the response tokens of both sides; None for a method whose reward is not weighted."""
    if "m_u" not in used_masks(records):
        return None
    return fmean(weight for record in records for side in SIDES for weight in record[side]["m_u"])


def logp_change(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean over pairs of the summed log pi - log ref of each side."""
    return {
        side: fmean(sum(record[side]["logps"]) - sum(record[side]["ref_logps"]) for record in records) for side in SIDES
    }


def mask_measurements(sparsity: dict[str, Any], effective_beta: float | None) -> dict[str, dict[str, list]]:
    """Share of zeros and effective beta of a run's masks as measurements of one value, for the table of its rewards."""
    values = {f"zeros_{name}": fmean(sides.values()) for name, sides in sparsity.items()}
    values |= {} if effective_beta is None else {"effective_beta": effective_beta}
    return {name: {"values": [value], "groups": [0]} for name, value in values.items()}
