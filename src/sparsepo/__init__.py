"""Token-level preference alignment of language models, and honest comparisons. Importing this imports no torch."""

from typing import Any

__version__ = "0.1.0"

_LIVES_IN = {
    "METHODS": "sparsepo.methods.registry",
    "PreferenceConfig": "sparsepo.config.training",
    "PreferenceTrainer": "sparsepo.training.preference_trainer",
    "OnPolicyTrainer": "sparsepo.fdpg.trainer",
    "inspect_pairs": "sparsepo.training.inspection",
    "load_masks": "sparsepo.training.preference_trainer",
    "Preference": "sparsepo.data.records",
    "UserError": "sparsepo.runtime.errors",
}
_LIVES_IN |= dict.fromkeys(("TokenTerms", "token_terms"), "sparsepo.objective.token_terms")
_LIVES_IN |= {"LMHead": "sparsepo.objective.lm_head"}
_LIVES_IN |= dict.fromkeys(("Side", "PairLoss"), "sparsepo.objective.response_terms")
_LIVES_IN |= dict.fromkeys(
    "dpo cdpo robust hinge ipo simpo dpop tdpo1 tdpo2 sparsepo odpo kto orpo sepo selective_nll inpo".split(),
    "sparsepo.objective.losses",
)
_LIVES_IN |= {"MaskInputs": "sparsepo.objective.masks"}
_LIVES_IN |= dict.fromkeys(("LayerHead", "LastHead"), "sparsepo.objective.learned_masks")
_LIVES_IN |= dict.fromkeys(
    "ActivationHead GivenHead SelectedHead ExcessHead RandomHead UniformHead".split(), "sparsepo.objective.fixed_masks"
)
_LIVES_IN |= dict.fromkeys(("Masks", "build_masks"), "sparsepo.objective.mask_builder")
__all__ = sorted(_LIVES_IN)


def __getattr__(name: str) -> Any:
    if name not in _LIVES_IN:
        raise AttributeError(f"module 'sparsepo' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_LIVES_IN[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
