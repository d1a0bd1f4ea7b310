"""Scores of the response tokens of preference pairs: log pi_oracle - log pi_base."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import TokenPair, collate, encode_response, onto, split
from sparsepo.data.records import Preference
from sparsepo.errors import UserError
from sparsepo.models import context_of, without_dropout
from sparsepo.training.batches import encode
from sparsepo.training.plan import choose_layout
from sparsepo.training.reference import compute
from sparsepo.wording import shown

DIGITS = 6
"""Of a score, after the point: what float32 tells apart."""
SOME = 100
"""Pairs whose encodings by two tokenizers are compared."""
WAYS = ({"add_special_tokens": True}, {"add_special_tokens": False})


@torch.no_grad()
def token_scores(
    oracle: Any, base: Any, pairs: Sequence[TokenPair], config: PreferenceConfig
) -> list[tuple[list[float], list[float]]]:
    """s_t = log pi_oracle(y_t | x, y_<t) - log pi_base(y_t | x, y_<t) in nats, of the chosen and the rejected tokens.

    The first token of a response has a score like any other. Source: Yang et al. 2024 (SePO).
    """
    models = [without_dropout(model).eval() for model in (oracle, base)]
    device, dtype = oracle.get_output_embeddings().weight.device, getattr(torch, config.precision)
    layout = choose_layout(models, config.layout, pairs)
    found: list[Any] = [None] * len(pairs)
    for places in split(range(len(pairs)), pairs, layout, config.micro_batch_size or 8, config.micro_batch_tokens):
        batch = onto(device, collate([pairs[place] for place in places], 0, layout))
        with torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            of_oracle, of_base = (compute(model, batch, "logps").float().cpu() for model in models)
        for place, part in zip(places, (of_oracle - of_base).tensor_split(batch["ends"][:-1]), strict=True):
            numbers = [round(score, DIGITS) for score in part.tolist()]
            chosen = len(pairs[place].chosen)
            found[place] = numbers[:chosen], numbers[chosen:]
    return found


def with_scores(
    oracle: Any, base: Any, tokenizer: Any, records: Sequence[Preference], config: PreferenceConfig
) -> list[Preference]:
    """The pairs with the scores of their tokens as `chosen_values` and `rejected_values`.

    A token beyond a limit of the config has the score 0. A pair that cannot be encoded within them, and so trains
    nothing, has no values.
    """
    encoded = encode(tokenizer, records, config, oracle, "be scored")
    scores = token_scores(oracle, base, encoded.pairs, config) if encoded.pairs else []
    scored = [replace(record, chosen_values=None, rejected_values=None) for record in records]
    for place, (chosen, rejected) in zip(encoded.kept, scores, strict=True):
        given = {"chosen_values": chosen, "rejected_values": rejected}
        whole = {name: _padded(tokenizer, records[place], name.split("_")[0], part) for name, part in given.items()}
        scored[place] = replace(records[place], **whole)
    return scored


def _padded(tokenizer: Any, record: Preference, side: str, scores: list[float]) -> list[float]:
    length = len(encode_response(tokenizer, getattr(record, side), getattr(record, f"{side}_ended")))
    return scores + [0.0] * (length - len(scores))


def check_same_tokens(own: Any, wanted: Any, pairs: Sequence[Preference], name: str) -> None:
    """Raises UserError unless both tokenizers have one vocabulary and encode some of these pairs alike.

    name: of the oracle, for the sentence.
    """
    if own.get_vocab() != wanted.get_vocab():
        sizes = f"{len(own.get_vocab())} and {len(wanted.get_vocab())} tokens"
        raise UserError(f"{name}: its tokenizer differs from that of the task's model ({sizes}): scores are of tokens")
    for pair in pairs[:SOME]:
        for text in (pair.prompt, pair.chosen, pair.rejected):
            if any(own(text, **how)["input_ids"] != wanted(text, **how)["input_ids"] for how in WAYS):
                raise UserError(f"{name}: its tokenizer encodes {shown(text)} otherwise than that of the task's model")
    if own.eos_token_id != wanted.eos_token_id:
        raise UserError(f"{name}: its end token is '{own.eos_token}', that of the task's model '{wanted.eos_token}'")


def context_at(folder: str | Path) -> int:
    """How many tokens the model in a folder looks at, as its config.json says; code of its own is not run for that."""
    raw = json.loads((Path(folder) / "config.json").read_text())
    known = raw.get("model_type") in CONFIG_MAPPING
    return context_of(SimpleNamespace(config=AutoConfig.for_model(**raw) if known else SimpleNamespace(**raw)))


def check_reach(own: int, wanted: int, limits: tuple[int, int], name: str) -> None:
    """Raises UserError unless a model that looks at `own` tokens sees all that is trained on.

    wanted: what the task's model looks at. limits: the longest prompt and the longest response. name: of the oracle.
    """
    needed = min(wanted, sum(limits))
    if own < needed:
        raise UserError(
            f"{name}: its model looks at {own} tokens, and a pair may have {needed} (training.max_prompt_tokens, "
            "max_response_tokens and the context of the task's model): shorten them or take another model"
        )
