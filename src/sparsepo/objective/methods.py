"""THE table: method -> loss, masks, what it needs, defaults, equation, source. Plain data, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsepo.errors import UserError, nearest
from sparsepo.objective.parameters import ALLOWED, LEARNED


@dataclass(frozen=True)
class Method:
    """One row. `loss` names a function of `losses.py`; `hyper` are its keywords with defaults.

    `trainer`: `pairs`, on preference pairs; or `on_policy`, on samples of the policy itself towards a target (see
    `targets.py`), which has no loss of a pair.

    `masks` and `fixed` are keywords of `masks.build_masks`; both empty: no token weights. A config may set the keys of
    `hyper` and `masks` (to what `ALLOWED` says), `fixed` makes the method what it is. `training` are settings of the
    training section that a grid may set instead, for this method. `kl`: the direction that the loss looks at, or one
    for each value of `form`.
    """

    label: str
    loss: str | None
    hyper: Mapping[str, Any]
    equation: str
    source: str
    masks: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    training: tuple[str, ...] = ()
    needs_reference: bool = True
    kl: str | Mapping[str, str] | None = None
    trainer: str = "pairs"

    @property
    def parameters(self) -> dict[str, Any]:
        """Every name a config may set, with its default; None is what the training section says."""
        return {**self.hyper, **self.masks, **dict.fromkeys(self.training)}

    def kl_directions(self, hyper: Mapping[str, Any]) -> tuple[str, ...]:
        """Directions of the KL that the loss looks at with these keywords: `reverse`, `forward` or none."""
        if isinstance(self.kl, Mapping):
            return (self.kl[hyper.get("form", self.hyper["form"])],)
        return () if self.kl is None else (self.kl,)

    def of_the_reference(self, given: Mapping[str, Any], log_kl: bool) -> tuple[str, ...] | None:
        """What a run needs of the frozen reference and can be computed once, before any run.

        `states`: its last hidden states, for a KL; `logps`: its log-probs of the response tokens;
        `weights~NORMALISATION~KINDS`: MaPO's mask. None: learned heads look at all layers, too large to store, and
        samples of the policy are not known before.
        """
        hyper, masks = self.split(given)
        if masks.get("head") in LEARNED or self.trainer != "pairs":
            return None
        needs = ("states",) if log_kl or self.kl_directions(hyper) else ("logps",) if self.needs_reference else ()
        if masks.get("head") == "activations":
            needs += (f"weights~{masks['normalisation']}~{'+'.join(masks['kinds'])}",)
        return needs

    @property
    def has_masks(self) -> bool:
        return bool(self.fixed)

    def split(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Defaults overridden by `given`, as (keywords of the loss, keywords of build_masks)."""
        values = {**self.parameters, **given}
        masks = {**{name: values[name] for name in self.masks}, **self.fixed}
        return {name: values[name] for name in self.hyper}, masks

    def resolved(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` with the defaults of what it leaves out."""
        return {**self.hyper, **self.masks, **given}

    @property
    def definition(self) -> dict[str, Any]:
        """What makes the method what it is, besides its hyper-parameters; words about it left out."""
        beside = ("label", "equation", "source", "hyper", "masks")
        return {name: value for name, value in vars(self).items() if name not in beside}

    def training_settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What `given` says in place of the training section."""
        return {name: given[name] for name in self.training if name in given}


STAND_IN = "dpo"
"""The method that looks into pairs for the SFT model, where all log-ratios are 0, and for methods without pairs."""

_KL_BY_FORM = {"paper": "reverse", "released": "forward"}
_LEARNED_MASKS = {"head": "layers", "l1_u": 0.0, "l1_d": 0.0, "initial_zeros": 0.25}

METHODS: dict[str, Method] = {
    "dpo": Method(
        label="DPO",
        loss="dpo",
        hyper={"beta": 0.1},
        equation="-log σ(β h), h = Σ log π/ref (chosen) - Σ log π/ref (rejected)",
        source="Rafailov et al. 2023",
    ),
    "cdpo": Method(
        label="cDPO",
        loss="cdpo",
        hyper={"beta": 0.1, "label_smoothing": 0.1},
        equation="-(1-ε) log σ(β h) - ε log σ(-β h)",
        source="Mitchell 2023",
    ),
    "robust": Method(
        label="robust DPO",
        loss="robust",
        hyper={"beta": 0.1, "label_smoothing": 0.1},
        equation="[-(1-ε) log σ(β h) + ε log σ(-β h)] / (1-2ε)",
        source="Chowdhury et al. 2024",
    ),
    "hinge": Method(
        label="hinge",
        loss="hinge",
        hyper={"beta": 0.1},
        equation="max(0, 1 - β h)",
        source="Zhao et al. 2023 (SLiC-HF)",
    ),
    "ipo": Method(
        label="IPO",
        loss="ipo",
        hyper={"beta": 0.1, "reduction": "sum"},
        equation="(h - 1/(2β))²",
        source="Azar et al. 2023",
    ),
    "simpo": Method(
        label="SimPO",
        loss="simpo",
        hyper={"beta": 2.5, "gamma": 0.3},
        equation="-log σ(β (mean log π (chosen) - mean log π (rejected)) - γ)",
        source="Meng et al. 2024",
        needs_reference=False,
    ),
    "dpop": Method(
        label="DPOP",
        loss="dpop",
        hyper={"beta": 0.1, "penalty": 50.0},
        equation="-log σ(β [h - λ max(0, Σ log ref/π (chosen))]), λ = penalty",
        source="Pal et al. 2024 (Smaug)",
    ),
    "tdpo1": Method(
        label="TDPO v1",
        loss="tdpo1",
        hyper={"beta": 0.1},
        equation="-log σ(β [h - (F_r - F_c)]), F = Σ KL(ref‖π)",
        source="Zeng et al. 2024",
        kl="forward",
    ),
    "tdpo2": Method(
        label="TDPO v2",
        loss="tdpo2",
        hyper={"beta": 0.1, "alpha": 0.5},
        equation="-log σ(β [h - α (F_r - sg F_c)]), F = Σ KL(ref‖π)",
        source="Zeng et al. 2024",
        kl="forward",
    ),
    "mapo": Method(
        label="MaPO",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="SparsePO with m_u = m_d read off the reference's activations",
        source="arXiv 2410.05102, Section 3.2",
        masks={"kinds": ("mlp", "attention", "residual"), "normalisation": "minmax"},
        fixed={"head": "activations", "share": "common"},
        kl=_KL_BY_FORM,
    ),
    "sparsepo_common": Method(
        label="SparsePO (common)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ), u = β Δ Σ m_u log π/ref, δ = β Δ Σ m_d KL(π‖ref), m_u = m_d learned",
        source="arXiv 2410.05102, Eq. 6-10",
        masks=_LEARNED_MASKS,
        training=("mask_weight_decay",),
        fixed={"share": "common"},
        kl=_KL_BY_FORM,
    ),
    "sparsepo_independent": Method(
        label="SparsePO (independent)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u and m_d learned apart",
        source="arXiv 2410.05102, Eq. 6-10",
        masks=_LEARNED_MASKS,
        training=("mask_weight_decay",),
        fixed={"share": "independent"},
        kl=_KL_BY_FORM,
    ),
    "sparsepo_reward_only": Method(
        label="SparsePO (reward only)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u learned, m_d = 1",
        source="arXiv 2410.05102, Section 5 (ablation)",
        masks=_LEARNED_MASKS,
        training=("mask_weight_decay",),
        fixed={"share": "reward_only"},
        kl=_KL_BY_FORM,
    ),
    "sparsepo_kl_only": Method(
        label="SparsePO (KL only)",
        loss="sparsepo",
        hyper={"beta": 0.1, "form": "paper"},
        equation="-log σ(u - δ) as above, m_u = 1, m_d learned",
        source="arXiv 2410.05102, Section 5 (ablation)",
        masks=_LEARNED_MASKS,
        training=("mask_weight_decay",),
        fixed={"share": "kl_only"},
        kl=_KL_BY_FORM,
    ),
    "fdpg": Method(
        label="f-DPG",
        loss=None,
        hyper={"beta": 0.1, "divergence": "kl"},
        equation="D(π, p) on samples of π, p = ref · exp(reward/β) / Z",
        source="Go et al. 2023",
        trainer="on_policy",
    ),
    "fdpg_feature": Method(
        label="f-DPG (feature)",
        loss=None,
        hyper={"mean": 0.5, "divergence": "kl"},
        equation="D(π, p) on samples of π, p = ref · exp(λ feature) / Z, λ such that E_p[feature] = mean",
        source="Go et al. 2023; Khalifa et al. 2021",
        trainer="on_policy",
    ),
}


def looking_into_pairs(method: str) -> str:
    """The method that looks into pairs for the runs of this one: itself if it trains on pairs, else `STAND_IN`.

    DPO's implicit reward, beta log pi/ref, is also that of a target ref exp(reward / beta).
    """
    return method if method in METHODS and METHODS[method].trainer == "pairs" else STAND_IN


def check_parameters(method: str, given: Mapping[str, Any]) -> Method:
    """The method's row. Raises UserError for an unknown method or parameter, or a value it may not take."""
    if method not in METHODS:
        raise UserError(f"method '{method}' is unknown; {nearest(method, METHODS)}")
    row = METHODS[method]
    for name, value in given.items():
        if name not in row.parameters:
            raise UserError(f"method '{method}' has no parameter '{name}'; {nearest(name, row.parameters)}")
        if not ALLOWED[name].admits(value):
            raise UserError(f"parameter '{name}' of '{method}' must be {ALLOWED[name]}, not {value!r}")
    return row


def check_pair_method(method: str, given: Mapping[str, Any]) -> Method:
    """The same, and raises UserError for a method that does not train on pairs."""
    row = check_parameters(method, given)
    if row.loss is None:
        raise UserError(f"method '{method}' trains on samples of its policy, not on pairs: use OnPolicyTrainer")
    return row
