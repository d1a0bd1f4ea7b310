"""What a preference run refuses, before it starts and at its first step, a sentence each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import Encoded, TokenPair
from sparsepo.methods.registry import METHODS
from sparsepo.models import adapters
from sparsepo.models.architecture import check_head
from sparsepo.models.loading import without_dropout
from sparsepo.runtime.errors import UserError
from sparsepo.training.pair_objective import PairOutput
from sparsepo.training.reference_cache import Cache, check_cache

STEP_0_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
STARTS = {"ref_logps": ("reference", "ref"), "values": ("the one that the pairs were sampled from", "prev")}
"""Token terms that a policy starts from -> whose they are, in words and in a formula."""


def check_models(policy: Any, reference: Any | None, tokenizer: Any, config: PreferenceConfig) -> None:
    """Raises UserError for one model as both, a tokenizer without an end, or logits that cannot be reproduced."""
    if policy is reference or (config.adapter is None and adapters.are_twins(policy, reference)):
        raise UserError("policy and reference must be two models, as one is trained: pass copy.deepcopy(policy)")
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-text token (tokenizer.eos_token), which responses need")
    for model in (policy, reference):
        if model is not None:
            check_head(without_dropout(model))


def check_pairs(encoded: Encoded, held_out: Encoded, config: PreferenceConfig) -> None:
    """Raises UserError for fewer usable pairs than one batch, and for nothing to validate on."""
    if len(encoded.pairs) < config.batch_size:
        raise UserError(
            f"{len(encoded.pairs)} usable pairs are fewer than one batch of {config.batch_size} "
            f"(training.batch_size); dropped: {encoded.dropped or 'none'}"
        )
    if config.validate_every and not held_out.pairs:
        raise UserError(
            f"training.validate_every is {config.validate_every}, and no validation pair is usable; "
            f"dropped: {held_out.dropped or 'none'}"
        )


def check_brought(method: str, hyper: Mapping[str, Any], pairs: Sequence[TokenPair]) -> None:
    """Raises UserError unless all pairs bring the numbers and the scores that the method looks at."""
    row = METHODS[method]
    if row.needs_values or row.oracle(hyper) is not None:
        bare = next((place for place, pair in enumerate(pairs) if pair.values is None), None)
        if bare is not None:
            reader = f"mask '{row.mask(hyper)}'" if row.oracle(hyper) is not None else f"method '{method}'"
            wanted = "chosen_values and rejected_values, a number for each token of a response"
            raise UserError(f"{reader} needs {wanted}; usable pair {bare + 1} of {len(pairs)} has none")
    if row.needs_scores:
        for place, pair in enumerate(pairs, start=1):
            if pair.scores is None or not pair.scores[0] > pair.scores[1]:
                wanted = "a chosen_score above its rejected_score"
                given = "none" if pair.scores is None else f"{pair.scores[0]:g} and {pair.scores[1]:g}"
                raise UserError(f"method '{method}' needs {wanted}; usable pair {place} of {len(pairs)} has {given}")


def check_known(
    method: str,
    hyper: Mapping[str, Any],
    config: PreferenceConfig,
    reference: Any | None,
    cache: Sequence[Cache],
    pairs: int,
) -> None:
    """Raises UserError unless all that the method needs of the reference is there, for training and validation."""
    if reference is None or cache:
        check_cache(method, hyper, config, cache, pairs)
    if reference is None and config.validate_every and METHODS[method].required_reference_outputs(hyper, config.log_kl):
        raise UserError(
            "validation runs the reference on pairs that a cache of the training pairs does not hold: "
            "pass the model too, or write validate_every: 0"
        )


def check_step_0(outcome: PairOutput, dtype: torch.dtype, autocast: bool, start: str = "ref_logps") -> None:
    """Raises UserError if the policy differs from where it starts before anything was trained.

    start: the reference, or `values`, the log-probs of the former policy that came with the pairs.
    """
    sides = (outcome.chosen, outcome.rejected)
    if getattr(outcome.chosen, start) is None:
        return
    apart = [(side.logps - getattr(side, start)).detach().where(side.valid, 0.0) for side in sides]
    worst = max(float(part.abs().max()) for part in apart)
    tolerance = 0.5 if autocast else STEP_0_TOLERANCE.get(dtype, 0.5)
    if worst > tolerance:
        other, short = STARTS[start]
        raise UserError(
            f"policy and {other} differ before the first step (largest |log pi - log {short}| of a token: {worst:.3g}"
            f", allowed {tolerance:g}): both must start from the same weights, dtype and tokenizer"
        )
