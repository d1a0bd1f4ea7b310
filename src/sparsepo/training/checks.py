"""What a preference run refuses, before it starts and at its first step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.encoding import EncodedPairs, TokenPair
from sparsepo.methods.registry import METHODS
from sparsepo.models.adapters import is_sharing_weights
from sparsepo.models.architecture import check_lm_head
from sparsepo.models.limits import vocabulary_size
from sparsepo.models.loading import disable_dropout
from sparsepo.runtime.errors import UserError
from sparsepo.training.pair_objective import PairOutput
from sparsepo.training.reference_cache import ReferenceCache, check_caches

STEP_0_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Nats, of a token; 0.5 in half precision."""
START_NAMES = {"ref_logps": ("the reference", "ref"), "values": ("the model that the pairs were sampled from", "prev")}
"""Log-probs that a policy starts from -> whose they are, in words and in a formula."""


def check_models(policy: Any, reference: Any | None, tokenizer: Any, config: PreferenceConfig) -> None:
    """Raises UserError for one model as both, a tokenizer without an end token, logits that are not known, or two
    vocabularies."""
    if policy is reference or (config.adapter is None and is_sharing_weights(policy, reference)):
        raise UserError("policy and reference must be two models, as one is trained: pass copy.deepcopy(policy)")
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-text token (tokenizer.eos_token), which responses need")
    for model in (policy, reference):
        if model is not None:
            check_lm_head(disable_dropout(model))
    sizes = [vocabulary_size(model) for model in (policy, reference) if model is not None]
    if len(set(sizes)) > 1:
        raise UserError(
            f"policy and reference have vocabularies of {sizes[0]} and {sizes[1]} rows: call resize_token_embeddings "
            "before the policy is copied, or start from a model with as many rows"
        )


def check_start_context(start: int, reference: int) -> None:
    """Raises UserError if the model that policies start from has a shorter context than the reference."""
    if start < reference:
        raise UserError(
            f"the model of 'policy' reads {start} tokens at once, fewer than the {reference} of the task's model"
        )


def check_num_pairs(training: EncodedPairs, validation: EncodedPairs, config: PreferenceConfig) -> None:
    """Raises UserError for fewer usable pairs than one batch, and for validation without pairs."""
    if len(training.pairs) < config.batch_size:
        raise UserError(
            f"{len(training.pairs)} usable pairs are fewer than one batch of {config.batch_size} "
            f"(training.batch_size); dropped: {training.dropped or 'none'}"
        )
    if config.validate_every and not validation.pairs:
        raise UserError(
            f"training.validate_every is {config.validate_every}, and no validation pair is usable; "
            f"dropped: {validation.dropped or 'none'}"
        )


def check_pair_data(method: str, hyper: Mapping[str, Any], pairs: Sequence[TokenPair]) -> None:
    """Raises UserError unless all pairs have token values and scores as the method reads them."""
    row = METHODS[method]
    if row.needs_values or row.oracle(hyper) is not None:
        without = next((number for number, pair in enumerate(pairs, start=1) if pair.values is None), None)
        if without is not None:
            reader = f"mask '{row.mask(hyper)}'" if row.oracle(hyper) is not None else f"method '{method}'"
            needed = "chosen_values and rejected_values, a number for each token of a response"
            raise UserError(f"{reader} needs {needed}; usable pair {without} of {len(pairs)} has none")
    mask = row.mask(hyper)
    divides = mask == "given" and (row.averages(hyper) or hyper.get("normalise") == "mean")
    if divides or mask == "attribution":
        for number, pair in enumerate(pairs, start=1):
            if (lowest := min(map(min, pair.values))) < 0:
                needed = (
                    "weights that are 0 or more, as it divides by their sum"
                    if divides
                    else "sizes of gradients, which are 0 or more: take mask 'importance' for scores of either sign"
                )
                raise UserError(f"mask '{mask}' of '{method}' needs {needed}; usable pair {number} has {lowest:g}")
    if row.needs_scores:
        for number, pair in enumerate(pairs, start=1):
            if pair.scores is None or not pair.scores[0] > pair.scores[1]:
                needed = "a chosen_score above its rejected_score"
                scores = "none" if pair.scores is None else f"{pair.scores[0]:g} and {pair.scores[1]:g}"
                raise UserError(f"method '{method}' needs {needed}; usable pair {number} of {len(pairs)} has {scores}")


def check_reference(
    method: str,
    hyper: Mapping[str, Any],
    config: PreferenceConfig,
    reference: Any | None,
    caches: Sequence[ReferenceCache],
    num_pairs: int,
) -> None:
    """Raises UserError unless the reference or caches of it are there, as the method needs, also for validation."""
    if reference is None or caches:
        check_caches(method, hyper, config, caches, num_pairs)
    if reference is None and config.validate_every and METHODS[method].required_reference_outputs(hyper, config.log_kl):
        raise UserError(
            "validation runs the reference on pairs that a cache of the training pairs does not hold: "
            "pass the model too, or write validate_every: 0"
        )


def check_step_0(output: PairOutput, dtype: torch.dtype, autocast: bool, start: str = "ref_logps") -> None:
    """Raises UserError if the policy differs from the model it should start from before anything was trained.

    start: log-probs of that model, `ref_logps` of the reference, or `values` of the previous policy.
    """
    sides = (output.chosen, output.rejected)
    if getattr(output.chosen, start) is None:
        return
    differences = [(side.logps - getattr(side, start)).detach().where(side.valid, 0.0) for side in sides]
    largest = max(float(difference.abs().max()) for difference in differences)
    tolerance = 0.5 if autocast else STEP_0_TOLERANCE.get(dtype, 0.5)
    if largest > tolerance:
        other, symbol = START_NAMES[start]
        raise UserError(
            f"policy and {other} differ before the first step (largest |log pi - log {symbol}| of a token: "
            f"{largest:.3g}, allowed {tolerance:g}): both must start from the same weights, dtype and tokenizer"
        )
