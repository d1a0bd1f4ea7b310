"""Scores of the response tokens of preference pairs: log pi_oracle - log pi_base."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import TokenPair, encode_pairs, with_values
from sparsepo.data.records import Preference
from sparsepo.models.loading import context_of
from sparsepo.runtime.errors import UserError, format_value
from sparsepo.training.batching import encode
from sparsepo.training.reference_cache import computed

DIGITS = 6
"""Of a score, after the point: what float32 tells apart."""
SOME = 100
"""Pairs whose encodings by two tokenizers are compared."""
WAYS = ({"add_special_tokens": True}, {"add_special_tokens": False})


def token_scores(
    oracle: Any, base: Any, pairs: Sequence[TokenPair], config: PreferenceConfig
) -> list[tuple[list[float], list[float]]]:
    """s_t = log pi_oracle(y_t | x, y_<t) - log pi_base(y_t | x, y_<t) in nats, of the chosen and the rejected tokens.

    The first token of a response has a score like any other. Source: Yang et al. 2024 (SePO).
    """
    of_oracle, of_base = (dict(computed(model, pairs, "logps", config)) for model in (oracle, base))
    found = []
    for place, pair in enumerate(pairs):
        numbers = [round(score, DIGITS) for score in (of_oracle[place].float() - of_base[place].float()).tolist()]
        found.append((numbers[: len(pair.chosen)], numbers[len(pair.chosen) :]))
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
    for place, numbers in zip(encoded.kept, scores, strict=True):
        scored[place] = with_values(tokenizer, records[place], *numbers)
    return scored


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
                raise UserError(
                    f"{name}: its tokenizer encodes {format_value(text)} otherwise than that of the task's model"
                )
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
        logps, first = known[at].tolist(), len(encoded.pairs[at].chosen)
        made.append(with_values(tokenizer, pairs[place], logps[:first], logps[first:]))
    return made, encoded.dropped
