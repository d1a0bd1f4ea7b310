"""A look inside preference pairs: what the trainer would compute for each, token by token."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sparsepo.data.batches import PairBatch
from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import Encoder, TokenPair, encode_pairs
from sparsepo.data.records import Preference
from sparsepo.methods.registry import check_pair_method
from sparsepo.models.architecture import hidden_states, lm_head
from sparsepo.models.limits import check_sequences, context_length
from sparsepo.models.loading import text_tokenizer
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.response_terms import Side
from sparsepo.objective.token_terms import token_entropy
from sparsepo.runtime.errors import UserError
from sparsepo.training.batching import Pairs, as_preferences, pair_sequences
from sparsepo.training.checks import check_pair_data
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective, PairOutput
from sparsepo.training.step_statistics import build_statistic


@torch.no_grad()
def inspect_pairs(
    policy: Any,
    reference: Any,
    pairs: Sequence[TokenPair | Mapping[str, Sequence[int]]] | Pairs,
    method: str,
    hyper: Mapping[str, Any] | None = None,
    masks: Masks | None = None,
    *,
    batch_size: int = 8,
    layout: str = "padded",
    tokenizer: Any = None,
) -> list[dict[str, Any]]:
    """What the trainer would compute for each pair, token by token.

    pairs: token ids, `TokenPair` or mappings with `prompt`, `chosen`, `rejected`, and `values` and `scores` (of chosen
    and rejected) where the method or its mask reads them. With a `tokenizer`: texts, as `PreferenceTrainer` takes them;
    none is cut. All are one step for a method that needs a whole step.
    hyper: what to change from the method's defaults in `METHODS`. masks: trained heads; None builds the method's own
    from its defaults, calibrated on all pairs given. layout: one of `data.collation.LAYOUTS`; the numbers are the same
    in all that a model can compute. The models' mode and dtype are not changed (call `.eval()` for a model with
    dropout).

    Returns a dict for each pair: `loss`, `penalty` (the masks' L1, included in `loss`), `reward_chosen`,
    `reward_rejected`, and for `chosen` and `rejected` lists with a number for each response token: `logps`,
    `ref_logps`, `ref_entropy` (of the reference's distribution that predicts the token, nats), `reverse_kl`,
    `forward_kl`, `m_u` and `m_d` for methods with masks, and `values` where the pairs have them. Raises UserError for
    an unknown method or parameter, a pair with an empty part, what pairs lack, texts without a tokenizer, and tokens
    that a model cannot read, see `check_sequences`.
    """
    hyper = hyper or {}
    loss_kwargs, _ = check_pair_method(method, hyper).split_parameters(hyper)
    token_pairs = _encode(tokenizer, pairs) if tokenizer is not None else [_as_token_pair(pair) for pair in pairs]
    for model in (policy, reference):
        check_sequences(model, pair_sequences(token_pairs))
    device = next(policy.parameters()).device
    own_masks = build_method_masks(method, reference, hyper) if masks is None else masks
    objective = PairObjective(policy, reference, method, loss_kwargs, own_masks)
    check_pair_data(method, hyper, token_pairs)
    statistic = build_statistic(method, hyper, token_pairs, layout, context_length(policy))

    def batch_of(indices: Sequence[int]) -> PairBatch:
        batch = collate_pairs([token_pairs[index] for index in indices], pad_id=0, layout=layout)
        return replace(batch, pair_indices=tuple(indices)).to(device)

    chunks = [range(len(token_pairs))[start : start + batch_size] for start in range(0, len(token_pairs), batch_size)]
    if own_masks is not None:
        own_masks.to(device)
    if masks is None and token_pairs:
        objective.calibrate(map(batch_of, chunks))
    batches = list(map(batch_of, chunks))
    if statistic is not None:
        batches = statistic.add_to_batches(objective, batches, list, seed=0, is_training=False)
    records = [record for batch in batches for record in pair_records(objective(batch))]
    entropies = [entropy for batch in batches for entropy in _reference_entropy(reference, batch)]
    for record, sides in zip(records, entropies, strict=True):
        for side, values in sides.items():
            record[side]["ref_entropy"] = values
    return records


def _reference_entropy(reference: Any, batch: PairBatch) -> list[dict[str, list[float]]]:
    """Of each pair: side -> the entropy of the reference at each response token, nats."""
    states = batch.responses.select_hidden(hidden_states(reference, batch.inputs))
    entropy, valid = batch.to_grid(token_entropy(states, lm_head(reference))), batch.responses.valid
    rows = [values[is_token].tolist() for values, is_token in zip(entropy, valid, strict=True)]
    chosen, rejected = rows[: batch.num_pairs], rows[batch.num_pairs :]
    return [{"chosen": own, "rejected": other} for own, other in zip(chosen, rejected, strict=True)]


def _encode(tokenizer: Any, pairs: Pairs) -> list[TokenPair]:
    """Pairs of texts as token ids. Raises UserError for one that cannot be used."""
    tokenizer = text_tokenizer(tokenizer)
    encoded = encode_pairs(Encoder(tokenizer), as_preferences(pairs, tokenizer), *[sys.maxsize] * 3)
    if encoded.dropped:
        raise UserError(f"pairs that cannot be inspected: {encoded.dropped}")
    return encoded.pairs


def _as_token_pair(pair: TokenPair | Preference | Mapping[str, Any]) -> TokenPair:
    fields = pair if isinstance(pair, Mapping) else vars(pair)
    if isinstance(fields.get("prompt"), str):
        raise UserError("the pairs are texts: give inspect_pairs a `tokenizer`, too")
    try:
        ids = (list(map(int, fields[name])) for name in ("prompt", "chosen", "rejected"))
        token_pair = TokenPair(*ids, fields.get("values"), fields.get("scores"), fields.get("rejected_prompt"))
    except KeyError as error:
        raise UserError(f"a pair needs token ids of prompt, chosen and rejected; {error} is missing") from None
    if not (token_pair.prompt and token_pair.chosen and token_pair.rejected):
        raise UserError("a pair needs at least one token each in prompt, chosen and rejected")
    return token_pair


def pair_records(output: PairOutput) -> list[dict[str, Any]]:
    """One plain dict for each pair, see `inspect_pairs`."""
    scalars = {
        "loss": output.loss,
        "penalty": output.penalty,
        "reward_chosen": output.pair.chosen_reward,
        "reward_rejected": output.pair.rejected_reward,
    }
    columns = {name: value.tolist() for name, value in scalars.items()}
    return [
        {name: values[row] for name, values in columns.items()}
        | {"chosen": _token_lists(output.chosen, row), "rejected": _token_lists(output.rejected, row)}
        for row in range(len(columns["loss"]))
    ]


def _token_lists(side: Side, row: int) -> dict[str, list[float]]:
    valid = side.valid[row]
    return {name: value[row][valid].tolist() for name, value in side.by_token.items()}
