"""Scores of the response tokens of preference pairs: log-ratios of two models, or sizes of gradients."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.batches import PairBatch
from sparsepo.data.encoding import Encoder, TokenPair, add_token_values, encode_pairs
from sparsepo.data.records import Preference
from sparsepo.models.architecture import hidden_states, lm_head
from sparsepo.models.limits import context_length
from sparsepo.runtime.errors import UserError, format_value
from sparsepo.training.batching import encode_usable_pairs
from sparsepo.training.reference_cache import reference_values, values_of_pairs

SCORE_DIGITS = 6
"""Of a log-ratio, after the decimal point: the precision of float32."""
COMPARED_PAIRS = 100
"""Pairs whose encodings by two tokenizers are compared."""
Scores = list[tuple[list[float], list[float]]]
"""A number for each token of the chosen and of the rejected response of each pair."""


def log_ratio_scores(oracle: Any, base: Any, pairs: Sequence[TokenPair], config: PreferenceConfig) -> Scores:
    """s_t = log pi_oracle(y_t | x, y_<t) - log pi_base(y_t | x, y_<t) in nats.

    The first token of a response has a score like any other. Source: Yang et al. 2024 (SePO); Liu et al. 2024
    (TIS-DPO), where the base is a model trained on the swapped pairs.
    """
    oracle_logps, base_logps = (dict(reference_values(model, pairs, "logps", config)) for model in (oracle, base))
    differences = [(oracle_logps[index].float() - base_logps[index].float()).tolist() for index in range(len(pairs))]
    return _by_side(pairs, [[round(score, SCORE_DIGITS) for score in numbers] for numbers in differences])


def gradient_scores(model: Any, pairs: Sequence[TokenPair], config: PreferenceConfig) -> Scores:
    """I_t = ||d max(z) / d e_t||_1, e_t the embedding of token t, z the logits that predict the last token.

    The last token comes after these logits, so its score is 0. The weights of the model are left without gradient.
    Source: Yang et al. 2025 (TI-DPO), arXiv 2505.19653, Eq. 5-6.
    """
    model.requires_grad_(False)
    sizes = dict(values_of_pairs(model, pairs, config, lambda batch: _gradient_sizes(model, batch)))
    return _by_side(pairs, [sizes[index].tolist() for index in range(len(pairs))])


def _gradient_sizes(model: Any, batch: PairBatch) -> Tensor:
    """(n,) of the response tokens of a batch. No response sees another, so that one sum has the gradients of all."""
    embeddings: list[Tensor] = []

    def start_here(_: Any, __: Any, output: Tensor) -> Tensor:
        embeddings.append(output.detach().requires_grad_())
        return embeddings[-1]

    handle = model.get_input_embeddings().register_forward_hook(start_here)
    try:
        hidden = batch.responses.select_hidden(hidden_states(model, batch.inputs))
    finally:
        handle.remove()
    valid = batch.responses.valid
    is_last = torch.arange(valid.shape[1], device=valid.device) == valid.sum(-1, keepdim=True) - 1
    lm_head(model).logits(hidden[batch.responses.from_grid(is_last)]).amax(-1).sum().backward()
    gradients = embeddings[0].grad.flatten(0, 1).index_select(0, batch.responses.token)
    return gradients.abs().sum(-1, dtype=torch.float32)


def _by_side(pairs: Sequence[TokenPair], numbers: Sequence[list[float]]) -> Scores:
    """The numbers of each pair, chosen before rejected, of its two responses."""
    both = zip(pairs, numbers, strict=True)
    return [(of_pair[: len(pair.chosen)], of_pair[len(pair.chosen) :]) for pair, of_pair in both]


def add_token_scores(
    model: Any,
    tokenizer: Any,
    records: Sequence[Preference],
    config: PreferenceConfig,
    score: Callable[[Sequence[Preference], Sequence[TokenPair]], Scores],
) -> list[Preference]:
    """The pairs with the scores of their tokens as `chosen_values` and `rejected_values`.

    model: whose limits say what can be scored. score: of the records that can, and their token ids. A token beyond a
    limit of the config has the score 0. A pair that cannot be encoded within the limits, and so is not trained on, has
    no values.
    """
    encoded = encode_usable_pairs(tokenizer, records, config, model, "be scored")
    scores = score([records[index] for index in encoded.indices], encoded.pairs) if encoded.pairs else []
    encoder = Encoder(tokenizer, model)
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
