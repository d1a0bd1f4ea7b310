"""The table of methods: loss, masks, what it needs, defaults, equation and source. Plain data, without torch."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from sparsepo.methods.method import MASKS, MISMATCHED_KL, READINGS, RUNNING_MARGIN, RUNNING_REWARD, Method
from sparsepo.methods.parameters import PARAMETERS
from sparsepo.runtime.errors import UserError, did_you_mean
from sparsepo.runtime.validation import error_message

DEFAULT_INSPECTION_METHOD = "dpo"
"""The method whose numbers are shown for pairs of the SFT model, where all log-ratios are 0, and of runs that do not
train on given pairs."""

_KL_BY_FORM = {"paper": "reverse", "released": "forward"}
_SPARSE_MASKS = tuple(name for name in MASKS if name != "activations")
_ACTIVATIONS = {"reading": None, "activation_sites": None}
_SELECTION = {"k_chosen": 0.3, "k_rejected": 0.3, "oracle": "data"}
_IMPORTANCE = {"mu": 1.0, "clamp_min": -0.5, "clamp_max": 1.5, "oracle": "data"}
_ATTRIBUTION = {"attribution_share": 0.7, "prior_width": 0.25, "oracle": "data"}
_FROM_VALUES = {**_SELECTION, **_IMPORTANCE, **_ATTRIBUTION}
_LEARNED = {"l1_u": 0.0, "init": "ones"}
_TOKEN_MASKS = {"mask": "none", "normalise": "none", **_LEARNED, **_ACTIVATIONS, **_FROM_VALUES}
_WEIGHS_REWARD = {
    "masks": _TOKEN_MASKS,
    "mask_choices": ("none", *MASKS),
    "plugin_masks": True,
    "share": "reward_only",
}
_WEIGHS_MEAN = _WEIGHS_REWARD | {
    "averages_tokens": True,
    "masks": {name: value for name, value in _TOKEN_MASKS.items() if name != "normalise"},
}
_WEIGHS_WITHOUT_VALUES = _WEIGHS_REWARD | {
    "masks": {"mask": "none", "normalise": "none", **_LEARNED, **_ACTIVATIONS},
    "mask_choices": ("none", *(mask for mask in MASKS if not MASKS[mask].reads_values)),
}
_WEIGHS_BOTH = _WEIGHS_REWARD | {"share": "common", "masks": {**_TOKEN_MASKS, "l1_d": 0.0}}
"""Masks of a loss that is a sum over tokens: on the log-ratios, or also on the KL of each token. MEAN: of a loss
that averages over tokens. WITHOUT_VALUES: for a loss that reads the numbers of the pairs itself, without the masks that
read them."""
TOKEN_WEIGHTS: dict[str, dict[str, Any]] = {
    "reward": _WEIGHS_REWARD,
    "mean": _WEIGHS_MEAN,
    "both": _WEIGHS_BOTH,
    "without_values": _WEIGHS_WITHOUT_VALUES,
}
"""The same by name, for rows of plugins."""

METHODS: dict[str, Method] = {
    "dpo": Method(
        label="DPO",
        loss="dpo",
        hyper={"beta": 0.1},
        equation="-log σ(β h), h = Σ log π/ref (chosen) - Σ log π/ref (rejected)",
        source="Rafailov et al. 2023",
        **_WEIGHS_REWARD,
    ),
    "cdpo": Method(
        label="cDPO",
        loss="cdpo",
        hyper={"beta": 0.1, "label_smoothing": 0.1},
        equation="-(1-ε) log σ(β h) - ε log σ(-β h)",
        source="Mitchell 2023",
        **_WEIGHS_REWARD,
    ),
    "robust": Method(
        label="robust DPO",
        loss="robust",
        hyper={"beta": 0.1, "label_smoothing": 0.1},
        equation="[-(1-ε) log σ(β h) + ε log σ(-β h)] / (1-2ε)",
        source="Chowdhury et al. 2024",
        **_WEIGHS_REWARD,
    ),
    "hinge": Method(
        label="hinge",
        loss="hinge",
        hyper={"beta": 0.1},
        equation="max(0, 1 - β h)",
        source="Zhao et al. 2023 (SLiC-HF)",
        **_WEIGHS_REWARD,
    ),
    "ipo": Method(
        label="IPO",
        loss="ipo",
        hyper={"beta": 0.1, "reduction": "sum"},
        equation="(h - 1/(2β))²",
        source="Azar et al. 2023",
        **_WEIGHS_REWARD,
    ),
    "simpo": Method(
        label="SimPO",
        loss="simpo",
        hyper={"beta": 2.5, "gamma": 0.3},
        equation="-log σ(β (mean log π (chosen) - mean log π (rejected)) - γ)",
        source="Meng et al. 2024",
        needs_reference=False,
        **_WEIGHS_MEAN,
    ),
    "dpop": Method(
        label="DPOP",
        loss="dpop",
        hyper={"beta": 0.1, "penalty": 50.0},
        equation="-log σ(β [h - λ max(0, Σ log ref/π (chosen))]), λ = penalty",
        source="Pal et al. 2024 (Smaug)",
        **_WEIGHS_REWARD,
    ),
    "tdpo1": Method(
        label="TDPO v1",
        loss="tdpo1",
        hyper={"beta": 0.1},
        equation="-log σ(β [h - (F_r - F_c)]), F = Σ KL(ref‖π)",
        source="Zeng et al. 2024",
        kl="forward",
        **_WEIGHS_BOTH,
    ),
    "tdpo2": Method(
        label="TDPO v2",
        loss="tdpo2",
        hyper={"beta": 0.1, "alpha": 0.5},
        equation="-log σ(β [h - α (F_r - sg F_c)]), F = Σ KL(ref‖π)",
        source="Zeng et al. 2024",
        kl="forward",
        **_WEIGHS_BOTH,
    ),
    "mapo": Method(
        label="MaPO",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="SparsePO with m_u = m_d read off the reference's activations",
        source="arXiv 2410.05102, Section 2.3",
        masks={"mask": "activations", "normalise": "none", **_ACTIVATIONS, "oracle": "data"},
        mask_choices=("activations", "given"),
        share="common",
        kl=_KL_BY_FORM,
    ),
    "sparsepo_common": Method(
        label="SparsePO (common)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ), u = β Δ Σ m_u log π/ref, δ = β Δ Σ m_d KL(π‖ref), m_u = m_d learned",
        source="arXiv 2410.05102, Eq. 6-8",
        masks={"mask": "layers", "normalise": "none", **_LEARNED, "l1_d": 0.0, **_FROM_VALUES},
        mask_choices=_SPARSE_MASKS,
        plugin_masks=True,
        share="common",
        kl=_KL_BY_FORM,
    ),
    "sparsepo_independent": Method(
        label="SparsePO (independent)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u and m_d learned apart",
        source="arXiv 2410.05102, Eq. 6-8",
        masks={"mask": "layers", "normalise": "none", **_LEARNED, "l1_d": 0.0, **_FROM_VALUES},
        mask_choices=_SPARSE_MASKS,
        plugin_masks=True,
        share="independent",
        kl=_KL_BY_FORM,
    ),
    "sparsepo_reward_only": Method(
        label="SparsePO (reward only)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u learned, m_d = 1",
        source="options of the authors' code",
        masks={"mask": "layers", "normalise": "none", **_LEARNED, "l1_d": 0.0, **_FROM_VALUES},
        mask_choices=_SPARSE_MASKS,
        plugin_masks=True,
        share="reward_only",
        kl=_KL_BY_FORM,
    ),
    "sparsepo_kl_only": Method(
        label="SparsePO (KL only)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u = 1, m_d learned",
        source="options of the authors' code",
        masks={"mask": "layers", "normalise": "none", **_LEARNED, "l1_d": 0.0, **_FROM_VALUES},
        mask_choices=_SPARSE_MASKS,
        plugin_masks=True,
        share="kl_only",
        kl=_KL_BY_FORM,
    ),
    "odpo": Method(
        label="ODPO",
        loss="odpo",
        hyper={"beta": 0.1, "alpha": 1.0},
        equation="-log σ(β h - α log(s_c - s_r)), s = score of a response",
        source="Amini et al. 2024",
        needs_scores=True,
        **_WEIGHS_REWARD,
    ),
    "beta_dpo": Method(
        label="β-DPO",
        loss="dpo",
        hyper={"beta": 0.1},
        equation="-log σ(β' h), β' = β [1 + a (mean h - μ)], on pairs drawn by a Gaussian around μ; a = scale",
        source="Wu et al. 2024",
        statistic=RUNNING_MARGIN,
        adaptive={"scale": 0.6, "momentum": 0.9, "filtered": 0.2},
        **_WEIGHS_REWARD,
    ),
    "kto": Method(
        label="KTO",
        loss="kto",
        hyper={"beta": 0.1, "desirable": 1.0, "undesirable": 1.0},
        equation="½ [w_D (1 - σ(r_c - z)) + w_U (1 - σ(z - r_r))], r = β Σ log π/ref, z = β KL of mismatched pairs",
        source="Ethayarajh et al. 2024",
        statistic=MISMATCHED_KL,
        **_WEIGHS_REWARD,
    ),
    "orpo": Method(
        label="ORPO",
        loss="orpo",
        hyper={"beta": 0.1},
        equation="-mean log π (chosen) - β log σ(log-odds (chosen) - log-odds (rejected))",
        source="Hong et al. 2024",
        needs_reference=False,
        **_WEIGHS_MEAN,
    ),
    "rpo": Method(
        label="DPO + NLL",
        loss="rpo",
        hyper={"beta": 0.1, "rpo_alpha": 1.0},
        equation="-log σ(β h) - α mean log π (chosen), α = rpo_alpha",
        source="Pang et al. 2024",
        **_WEIGHS_REWARD,
    ),
    "dpo_norm": Method(
        label="DPO (length-normalised)",
        loss="dpo_norm",
        hyper={"beta": 5.0},
        equation="-log σ(β (mean log π/ref (chosen) - mean log π/ref (rejected)))",
        source="Lambert et al. 2024 (Tülu 3)",
        **_WEIGHS_MEAN,
    ),
    "ld_dpo": Method(
        label="LD-DPO",
        loss="ld_dpo",
        hyper={"beta": 0.1, "ld_alpha": 0.5},
        equation="-log σ(β h), tokens beyond the length of the shorter response count α times, α = ld_alpha",
        source="Liu et al. 2024, arXiv 2409.06411",
        **_WEIGHS_REWARD,
    ),
    "apo_zero": Method(
        label="APO-zero",
        loss="apo_zero",
        hyper={"beta": 0.1},
        equation="1 - σ(r_c) + σ(r_r), r = β Σ log π/ref",
        source="D'Oosterlinck et al. 2024",
        **_WEIGHS_REWARD,
    ),
    "apo_down": Method(
        label="APO-down",
        loss="apo_down",
        hyper={"beta": 0.1},
        equation="σ(r_c) + 1 - σ(r_c - r_r), r = β Σ log π/ref",
        source="D'Oosterlinck et al. 2024",
        **_WEIGHS_REWARD,
    ),
    "sppo": Method(
        label="SPPO",
        loss="sppo",
        hyper={"beta": 0.001},
        equation="(Σ log π/ref (chosen) - 1/(2β))² + (Σ log π/ref (rejected) + 1/(2β))²",
        source="Wu et al. 2024 (SPPO)",
        **_WEIGHS_REWARD,
    ),
    "nca": Method(
        label="NCA",
        loss="nca",
        hyper={"beta": 0.01},
        equation="-log σ(r_c) - ½ log σ(-r_c) - ½ log σ(-r_r), r = β Σ log π/ref",
        source="Chen et al. 2024",
        **_WEIGHS_REWARD,
    ),
    "bco": Method(
        label="BCO",
        loss="bco",
        hyper={"beta": 0.1},
        equation="-log σ(r_c - δ) - log σ(δ - r_r), r = β Σ log π/ref, δ = mean reward so far",
        source="Jung et al. 2024",
        statistic=RUNNING_REWARD,
        **_WEIGHS_REWARD,
    ),
    "sepo": Method(
        label="SePO",
        loss="sepo",
        hyper={"beta": 1.0},
        equation="-log σ(β (mean log π (chosen) - mean log π (rejected))), of the tokens that an oracle's scores keep",
        source="Yang et al. 2024, arXiv 2408.13518",
        masks={"mask": "selected", **_SELECTION},
        mask_choices=("selected", "given"),
        averages_tokens=True,
        share="reward_only",
        needs_reference=False,
    ),
    "rho": Method(
        label="Rho-1",
        loss="selective_nll",
        hyper={},
        equation="-mean log π (chosen tokens of the largest excess loss log oracle/π)",
        source="Lin et al. 2024",
        masks={"mask": "excess", **_SELECTION},
        mask_choices=("excess", "given", "uniform"),
        averages_tokens=True,
        share="reward_only",
        needs_reference=False,
    ),
    "inpo": Method(
        label="INPO",
        loss="inpo",
        hyper={"beta": 0.0075, "ratio": 1 / 3},
        equation="(h - (1-ρ) h_prev - 1/(2β))², h_prev = Σ log prev/ref as h, ρ = ratio; on ranked samples of prev",
        source="Zhang et al. 2024, arXiv 2407.00617",
        trainer="rounds",
        rounds={"iterations": 3},
        needs_values=True,
        **_WEIGHS_WITHOUT_VALUES,
    ),
    "fdpg": Method(
        label="f-DPG",
        loss=None,
        hyper={"beta": 0.1, "divergence": "kl"},
        equation="D(π, p) on samples of π, p = ref · exp(reward/β) / Z",
        source="Go et al. 2023",
        training=("learning_rate", "batch_size", "num_train_epochs"),
        trainer="on_policy",
    ),
    "fdpg_feature": Method(
        label="f-DPG (feature)",
        loss=None,
        hyper={"target_mean": 0.5, "divergence": "kl"},
        equation="D(π, p) on samples of π, p = ref · exp(λ feature) / Z, λ such that E_p[feature] = target_mean",
        source="Go et al. 2023; Khalifa et al. 2021",
        training=("learning_rate", "batch_size", "num_train_epochs"),
        trainer="on_policy",
    ),
    "sparsepo_uniform": Method(
        label="SparsePO (uniform weights)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u = m_d = 1",
        source="control",
        masks={"mask": "uniform"},
        mask_choices=("uniform",),
        share="common",
        kl=_KL_BY_FORM,
    ),
    "sparsepo_random": Method(
        label="SparsePO (random weights)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u = m_d random in [0, 1), new for each batch",
        source="control",
        masks={"mask": "random", "normalise": "none"},
        mask_choices=("random",),
        share="common",
        kl=_KL_BY_FORM,
    ),
    "sparsepo_entropy": Method(
        label="SparsePO (entropy weights)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u = m_d = entropy of ref at the token, nats",
        source="control",
        masks={"mask": "entropy", "normalise": "none"},
        mask_choices=("entropy",),
        share="common",
        kl=_KL_BY_FORM,
    ),
    "tis_dpo": Method(
        label="TIS-DPO",
        loss="tis_dpo",
        hyper={"beta": 0.1},
        equation="-log σ(u - η), u = β Δ Σ w log π/ref, η = β Δ Σ w KL(π‖ref), w = exp(±μ clamp(log π⁺/π⁻))",
        source="Liu et al. 2024",
        masks={"mask": "importance", "normalise": "none", **_IMPORTANCE},
        mask_choices=("importance", "given"),
        share="common",
        kl="reverse",
    ),
    "ti_dpo": Method(
        label="TI-DPO",
        loss="dpo",
        hyper={"beta": 0.1},
        equation="-log σ(β h), h of weighted log-ratios: gradient attribution mixed with a Gaussian over positions",
        source="Yang et al. 2025",
        masks={"mask": "attribution", **_ATTRIBUTION},
        mask_choices=("attribution", "given"),
        share="reward_only",
    ),
    "sparsepo_oracle": Method(
        label="SparsePO (oracle)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u = m_d = 1 on the tokens that are known to matter, else 0",
        source="this project",
        masks={"mask": "given", "normalise": "none", "oracle": "data"},
        mask_choices=("given",),
        share="common",
        kl=_KL_BY_FORM,
    ),
}
"""By the name that a config gives."""


def inspection_method(method: str) -> str:
    """The method whose loss is shown for pairs of a run: its own if it trains on pairs, else DEFAULT_INSPECTION_METHOD.

    DPO's implicit reward, beta log pi/ref, is also that of a target ref exp(reward / beta).
    """
    return method if METHODS[method].trainer == "pairs" else DEFAULT_INSPECTION_METHOD


def check_parameters(method: str, hyper: Mapping[str, Any]) -> Method:
    """The row of a method. Raises UserError for an unknown method or parameter, and a value that it may not take.

    Also for a parameter that is not read with this mask.
    """
    if method not in METHODS:
        raise UserError(f"method '{method}' is unknown; {did_you_mean(method, METHODS)}")
    row = METHODS[method]
    for name, value in hyper.items():
        if name not in row.parameters:
            raise UserError(f"method '{method}' has no parameter '{name}'; {did_you_mean(name, row.parameters)}")
        try:
            TypeAdapter(parameter_type(method, name)).validate_python(value, strict=True)
        except ValidationError as error:
            raise UserError(f"parameter '{name}' of '{method}' {error_message(error.errors()[0])}") from None
    check_used(method, hyper)
    check_reading(method, hyper)
    return row


def parameter_type(method: str, name: str) -> Any:
    """The type of a parameter of this method, as pydantic checks it; a method may have only some of the masks."""
    return Literal[METHODS[method].mask_choices] if name == "mask" else PARAMETERS[name].type


def check_used(method: str, hyper: Mapping[str, Any]) -> None:
    """Raises UserError for a parameter that is not read with this mask."""
    row = METHODS[method]
    mask = row.mask(hyper)
    for name in hyper:
        if name not in row.used_parameters(mask):
            readers = [choice for choice in row.mask_choices if name in row.used_parameters(choice)]
            listed = readers[0] if len(readers) == 1 else f"{', '.join(readers[:-1])} or {readers[-1]}"
            raise UserError(f"parameter '{name}' of '{method}' is not read where mask is '{mask}', but with {listed}")


def check_reading(method: str, hyper: Mapping[str, Any]) -> None:
    """Raises UserError for a site that the reading does not have, and a loss or a `normalise` that it does not suit."""
    masks = METHODS[method].split_parameters(hyper)[1]
    if masks.get("reading") == "paper" and METHODS[method].averages(hyper):
        raise UserError(
            f"'{method}' divides by the sum of a response's weights, which is 0 in reading 'paper': write reading: "
            "authors"
        )
    if masks.get("reading") == "paper" and masks["normalise"] == "mean":
        raise UserError(
            f"'{method}': weights of reading 'paper' have mean 0 over a response, by which 'normalise: mean' cannot "
            "divide: write reading: authors, or normalise: none"
        )
    for site in masks.get("activation_sites") or ():
        if site not in (allowed := READINGS[masks["reading"]]):
            raise UserError(
                f"activation site '{site}' is not in reading '{masks['reading']}', which has {', '.join(allowed)}"
            )


def check_pair_method(method: str, hyper: Mapping[str, Any]) -> Method:
    """As `check_parameters`; also raises UserError for a method that does not train on pairs."""
    row = check_parameters(method, hyper)
    if row.loss is None:
        raise UserError(f"method '{method}' trains on samples of its policy, not on pairs: use OnPolicyTrainer")
    return row
