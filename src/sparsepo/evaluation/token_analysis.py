"""Everything that is measured of one run, as the plain numbers that tables and figures read."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sparsepo.data.collation import TokenPair, encode_pairs
from sparsepo.data.planted import polar_spans
from sparsepo.data.records import Preference
from sparsepo.evaluation.frontier import Samples
from sparsepo.evaluation.statistics import distinct_n, roc_auc
from sparsepo.runtime.errors import UserError

SIDES = ("chosen", "rejected")


def scores(made: Samples) -> dict[str, Any]:
    """Of sampled responses: reward, divergence, entropy (-log pi) and length of each, distinct-n of all."""
    tokens = [row.tokens for row in made.completions]
    return {
        "prompt_ids": _places(made),
        "reward": made.rewards["reward"] if "reward" in made.rewards else [],
        "kl_sample": [row.sample for row in made.divergences],
        "kl_exact": [row.exact for row in made.divergences],
        "entropy": [-row.logp for row in made.divergences],
        "length": [len(ids) for ids in tokens],
        "distinct_1": distinct_n(tokens, 1),
        "distinct_2": distinct_n(tokens, 2),
    }


def measures(made: Samples) -> dict[str, dict[str, list]]:
    """Of sampled responses: every scorer's, the exact KL and the length, as values with the prompt of each."""
    values = made.rewards | {
        "kl": [row.exact for row in made.divergences],
        "length": [len(row.tokens) for row in made.completions],
    }
    places = _places(made)
    return {name: {"values": list(numbers), "groups": places} for name, numbers in values.items() if places}


def single(result: dict[str, Any]) -> dict[str, dict[str, list]]:
    """What is one number a run and belongs beside the rewards: how well signals found planted tokens, and zeros."""
    found = {f"auc_{name}": sides["chosen"] for name, sides in result["auc"].items() if name != "abs_logratio"}
    found |= {f"zeros_{name}": fmean(sides.values()) for name, sides in result["sparsity"].items()}
    return {name: {"values": [value], "groups": [0]} for name, value in found.items() if value is not None}


def accuracy(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, list]]:
    """Share of pairs whose chosen response has the higher implicit reward; equal rewards count one half."""
    margins = [record["reward_chosen"] - record["reward_rejected"] for record in records]
    values = [0.5 if margin == 0 else float(margin > 0) for margin in margins]
    return {"accuracy": {"values": values, "groups": list(range(len(values)))}}


def _places(made: Samples) -> list[int]:
    """The number of each response's prompt."""
    places = {prompt: at for at, prompt in enumerate(dict.fromkeys(row.prompt for row in made.completions))}
    return [places[row.prompt] for row in made.completions]


def token_records(
    tokenizer: Any, pairs: Sequence[Preference], inspected: Sequence[dict[str, Any]], planted: bool
) -> list[dict[str, Any]]:
    """What `inspect_pairs` found, with the prompt as text, each token as text, and whether it was planted."""
    records = []
    for pair, found in zip(pairs, inspected, strict=True):
        record = {"prompt": pair.prompt} | found
        for side in SIDES:
            text = getattr(pair, side)
            length = len(found[side]["logps"])
            pieces, spans = _pieces(tokenizer, text, length)
            record[side] = {"tokens": pieces} | found[side]
            if planted:
                record[side]["planted"] = mark(spans, polar_spans(text))
        records.append(record)
    return records


def _pieces(tokenizer: Any, text: str, length: int) -> tuple[list[str], list[tuple[int, int]]]:
    """The first `length` tokens of a response as text, and their spans in it; the end token has an empty span."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans = [(int(start), int(end)) for start, end in spans][:length]
    pieces = [text[start:end] for start, end in spans]
    missing = length - len(spans)
    return pieces + [tokenizer.eos_token] * missing, spans + [(len(text), len(text))] * missing


def mark(tokens: Sequence[tuple[int, int]], planted: Sequence[tuple[int, int]]) -> list[int]:
    """1 for each token span that overlaps a planted span, else 0."""
    return [int(any(start < to and end > since for since, to in planted)) for start, end in tokens]


def planted_auc(records: Sequence[dict[str, Any]], mask: str = "none") -> dict[str, dict[str, float | None]]:
    """ROC AUC with which token signals rank planted tokens above the others, all pairs pooled.

    The signals are token weights, |log pi/ref|, and what a `mask` selects by: an oracle's scores, negated for rejected
    responses as the lowest are kept there, or the excess.
    """
    masks = weighing(records)
    found: dict[str, dict[str, float | None]] = {}
    for name in (*masks, "abs_logratio", *SELECTED_BY.get(mask, ())):
        found[name] = {}
        for side in SIDES:
            labels = [label for record in records for label in record[side]["planted"]]
            found[name][side] = roc_auc([x for record in records for x in _signal(record, side, name)], labels)
    return found


SELECTED_BY = {"selected": ("oracle_score",), "excess": ("excess",)}
"""Mask -> the signal that it keeps the highest tokens of."""


def _signal(record: dict[str, Any], side: str, name: str) -> list[float]:
    tokens = record[side]
    if name in tokens:
        return tokens[name]
    if name == "oracle_score":
        return [score if side == "chosen" else -score for score in tokens["values"]]
    ratios = [a - b for a, b in zip(tokens["logps"], tokens["ref_logps"], strict=True)]
    if name == "excess":
        return [score - ratio for score, ratio in zip(tokens["values"], ratios, strict=True)]
    return [abs(ratio) for ratio in ratios]


def weighing(records: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Which of m_u and m_d there are; one that is 1 on every token weighs nothing, and is none."""
    there = [name for name in ("m_u", "m_d") if name in records[0]["chosen"]]
    return tuple(
        name for name in there if any(x != 1 for record in records for side in SIDES for x in record[side][name])
    )


def mask_sparsity(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Share of exact zeros of each mask over response tokens; empty for a method without masks."""
    return {
        name: {side: fmean(x == 0 for record in records for x in record[side][name]) for side in SIDES}
        for name in weighing(records)
    }


def logp_change(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean over pairs of the summed log pi - log ref of each side."""
    return {
        side: fmean(sum(record[side]["logps"]) - sum(record[side]["ref_logps"]) for record in records) for side in SIDES
    }


def usable(
    tokenizer: Any, pairs: Sequence[Preference], limits: tuple[int, int, int], count: int
) -> tuple[list[Preference], list[TokenPair]]:
    """The first `count` pairs that training could use, as records and as token ids. Raises UserError if there is none.

    limits: the longest prompt, the longest response, and the model's context.
    """
    encoded = encode_pairs(tokenizer, pairs, *limits)
    if not encoded.pairs:
        raise UserError(f"none of the {len(pairs)} validation pairs can be looked into; dropped: {encoded.dropped}")
    return [pairs[at] for at in encoded.kept[:count]], encoded.pairs[:count]
