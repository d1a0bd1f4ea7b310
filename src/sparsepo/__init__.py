"""Token-level preference alignment of language models, and honest comparisons. Importing this imports no torch."""

from functools import cache
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "METHODS": "methods.registry",
    "PreferenceConfig": "config.training",
    "PreferenceTrainer": "training.preference_trainer",
    "OnPolicyTrainer": "fdpg.trainer",
    "inspect_pairs": "training.inspection",
    "load_masks": "training.method_masks",
    "Preference": "data.records",
    "UserError": "runtime.errors",
    "LMHead": "objective.lm_head",
    "TokenTerms": "objective.token_terms",
    "token_terms": "objective.token_terms",
    "Side": "objective.response_terms",
    "PairLoss": "objective.response_terms",
    "MaskInputs": "objective.masks",
    "MaskHead": "objective.masks",
    "Masks": "objective.mask_builder",
    "build_masks": "objective.mask_builder",
    "LearnedHead": "objective.learned_masks",
    "reward_sum": "objective.response_terms",
    "reward_mean": "objective.response_terms",
    "kl_sum": "objective.response_terms",
    "register_mask": "methods.plugins",
    "register_method": "methods.plugins",
    "Parameter": "methods.parameters",
    "number": "methods.parameters",
    "whole_number": "methods.parameters",
}
"""Name -> the module that it is imported from at its first use; losses and mask heads are those of the tables."""


@cache
def public_modules() -> dict[str, str]:
    """Public name -> the module that defines it."""
    from sparsepo.methods.method import MASKS
    from sparsepo.methods.registry import METHODS

    losses = {row.loss: "sparsepo.objective.losses" for row in METHODS.values() if row.loss and ":" not in row.loss}
    built_in = [row.head.rpartition(".") for row in MASKS.values() if ":" not in row.head]
    heads = {name: module for module, _, name in built_in}
    return losses | heads | {name: f"sparsepo.{module}" for name, module in _MODULES.items()}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(public_modules())
    if name.startswith("_") or name not in public_modules():
        raise AttributeError(f"module 'sparsepo' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(public_modules()[name]), name)


def __dir__() -> list[str]:
    return [*public_modules(), "__all__", "__version__"]
