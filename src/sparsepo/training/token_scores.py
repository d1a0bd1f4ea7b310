"""Scores of the response tokens of preference pairs: log pi_oracle - log pi_base."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.encoding import Encoder, TokenPair, add_token_values, encode_pairs
from sparsepo.data.records import Preference
from sparsepo.models.limits import context_length
from sparsepo.runtime.errors import UserError, format_value
from sparsepo.training.batching import encode_usable_pairs
from sparsepo.training.reference_cache import reference_values

SCORE_DIGITS = 6
"""After the decimal point: the precision of float32."""
COMPARED_PAIRS = 100
"""Pairs whose encodings by two tokenizers are compared."""


def token_scores(
    oracle: Any, base: Any, pairs: Sequence[TokenPair], config: PreferenceConfig
) -> list[tuple[list[float], list[float]]]:
    """s_t = log pi_oracle(y_t | x, y_<t) - log pi_base(y_t | x, y_<t) in nats, of the chosen and the rejected tokens.

    The first token of a response has a score like any other. Source: Yang et al. 2024 (SePO).
    """
    oracle_logps, base_logps = (dict(reference_values(model, pairs, "logps", config)) for model in (oracle, base))
    scores = []
    for index, pair in enumerate(pairs):
        differences = (oracle_logps[index].float() - base_logps[index].float()).tolist()
        rounded = [round(score, SCORE_DIGITS) for score in differences]
        scores.append((rounded[: len(pair.chosen)], rounded[len(pair.chosen) :]))
    return scores


def add_token_scores(
    oracle: Any, base: Any, tokenizer: Any, records: Sequence[Preference], config: PreferenceConfig
) -> list[Preference]:
    """The pairs with the scores of their tokens as `chosen_values` and `rejected_values`.

    A token beyond a limit of the config has the score 0. A pair that cannot be encoded within the limits, and so is not
    trained on, has no values.
    """
    encoded = encode_usable_pairs(tokenizer, records, config, oracle, "be scored")
    scores = token_scores(oracle, base, encoded.pairs, config) if encoded.pairs else []
    encoder = Encoder(tokenizer, oracle)
    scored = [replace(record, chosen_values=None, rejected_values=None) for record in records]
    for index, numbers in zip(encoded.indices, scores, strict=True):
        scored[index] = add_token_values(encoder, records[index], *numbers)
    return scored


def add_logps(
    model: Any, tokenizer: Any, records: Sequence[Preference], config: PreferenceConfig
) -> tuple[list[Preference], dict[str, int]]:
    """The usable pairs, with the model's log-probs (nats) of their tokens as values; and why others are dropped.

    A token beyond a limit of the config has 0.
    """
    encoder = Encoder(tokenizer, model)
    limits = config.max_prompt_tokens, config.max_response_tokens, context_length(model)
    encoded = encode_pairs(encoder, records, *limits)
    logps = dict(reference_values(model, encoded.pairs, "logps", config))
    pairs = []
    for number, index in enumerate(encoded.indices):
        values, num_chosen = logps[number].tolist(), len(encoded.pairs[number].chosen)
        pairs.append(add_token_values(encoder, records[index], values[:num_chosen], values[num_chosen:]))
    return pairs, encoded.dropped


def check_same_tokenizer(tokenizer: Any, task_tokenizer: Any, pairs: Sequence[Preference], name: str) -> None:
    """Raises UserError unless both tokenizers have one vocabulary and encode some of these pairs alike.

    name: of the other model, for the error.
    """
    if tokenizer.get_vocab() != task_tokenizer.get_vocab():
        sizes = f"{len(tokenizer.get_vocab())} and {len(task_tokenizer.get_vocab())} tokens"
        raise UserError(f"{name}: its tokenizer differs from that of the task's model ({sizes})")
    for pair in pairs[:COMPARED_PAIRS]:
        for text in (pair.prompt, pair.chosen, pair.rejected):
            for special in (True, False):
                ids = [each(text, add_special_tokens=special)["input_ids"] for each in (tokenizer, task_tokenizer)]
                if ids[0] != ids[1]:
                    raise UserError(
                        f"{name}: its tokenizer encodes {format_value(text)} differently from that of the task's model"
                    )
    if tokenizer.eos_token_id != task_tokenizer.eos_token_id:
        ends = f"'{tokenizer.eos_token}', that of the task's model '{task_tokenizer.eos_token}'"
        raise UserError(f"{name}: its end token is {ends}")


def check_context_length(oracle: int, task: int, limits: tuple[int, int], name: str) -> None:
    """Raises UserError unless an oracle with this context length can read all that is trained on.

    task: context length of the task's model. limits: the longest prompt and the longest response. name: of the oracle.
    """
    needed = min(task, sum(limits))
    if oracle < needed:
        raise UserError(
            f"{name}: the context of its model is {oracle} tokens, and a pair may have {needed} "
            "(training.max_prompt_tokens, max_response_tokens and the context of the task's model): reduce them or use "
            "another model"
        )
