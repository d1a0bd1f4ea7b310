"""One row of the table of methods: what a method minimises, and what it needs. Plain data, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Mask:
    """One row of the table of masks.

    head: full name of its class in `objective.learned_masks` or `objective.fixed_masks`, or `file.py:Class` of a
    plugin. parameters: those that a config may set for a method with this mask. options: keywords of the class that
    this mask fixes. reads: as of the class, see `MaskHead.reads`.
    """

    head: str
    parameters: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    reads: str = "nothing"

    @property
    def is_learned(self) -> bool:
        return self.reads == "hidden_states"

    @property
    def reads_values(self) -> bool:
        """Whether it is computed from numbers that the pairs have for each token."""
        return "oracle" in self.parameters


LEARNED_PARAMETERS = ("l1_u", "l1_d", "init", "normalise", "mask_weight_decay")
_SELECTION = ("k_chosen", "k_rejected", "oracle")
_IMPORTANCE = ("mu", "clamp_min", "clamp_max")
_ATTRIBUTION = ("attribution_share", "prior_width")
_INNER = {"inner": 200}
_BINARY = {"binary": True}
MASKS: dict[str, Mask] = {
    "layers": Mask("sparsepo.objective.learned_masks.LayerHead", LEARNED_PARAMETERS, reads="hidden_states"),
    "last": Mask("sparsepo.objective.learned_masks.LastHead", LEARNED_PARAMETERS, reads="hidden_states"),
    "feed_forward_layers": Mask(
        "sparsepo.objective.learned_masks.LayerHead", LEARNED_PARAMETERS, _INNER, reads="hidden_states"
    ),
    "feed_forward_last": Mask(
        "sparsepo.objective.learned_masks.LastHead", LEARNED_PARAMETERS, _INNER, reads="hidden_states"
    ),
    "binary_layers": Mask(
        "sparsepo.objective.learned_masks.LayerHead", LEARNED_PARAMETERS, _BINARY, reads="hidden_states"
    ),
    "binary_last": Mask(
        "sparsepo.objective.learned_masks.LastHead", LEARNED_PARAMETERS, _BINARY, reads="hidden_states"
    ),
    "activations": Mask(
        "sparsepo.objective.fixed_masks.ActivationHead",
        ("reading", "activation_sites", "normalise"),
        reads="activations",
    ),
    "given": Mask("sparsepo.objective.fixed_masks.GivenHead", ("oracle", "normalise"), reads="values"),
    "selected": Mask("sparsepo.objective.fixed_masks.SelectedHead", _SELECTION, reads="values"),
    "excess": Mask("sparsepo.objective.fixed_masks.ExcessHead", _SELECTION, reads="logratio"),
    "importance": Mask(
        "sparsepo.objective.fixed_masks.ImportanceHead", (*_IMPORTANCE, "oracle", "normalise"), reads="values"
    ),
    "attribution": Mask("sparsepo.objective.fixed_masks.AttributionHead", (*_ATTRIBUTION, "oracle"), reads="values"),
    "entropy": Mask("sparsepo.objective.fixed_masks.EntropyHead", ("normalise",), reads="entropy"),
    "random": Mask("sparsepo.objective.fixed_masks.RandomHead", ("normalise",)),
    "uniform": Mask("sparsepo.objective.fixed_masks.UniformHead"),
}
"""By the name that a config gives."""

READINGS = {"paper": ("mlp", "attention", "residual"), "authors": ("mlp", "attention", "residual", "logits")}
"""How `mask: activations` reads the reference -> the sites that it has."""
READING_OF_FORM = {"paper": "paper", "released": "authors"}
MISMATCHED_KL = "mismatched_kl"
RUNNING_MARGIN = "running_margin"
RUNNING_REWARD = "running_reward"


@dataclass(frozen=True)
class Method:
    """One row. A config may set the keys of `hyper`, `masks`, `adaptive`, `rounds` and `training`.

    loss: a function of `objective.losses`, or `file.py:function` of a plugin; hyper: its keywords with defaults.
    trainer: `pairs`, on given preference pairs; `rounds`, on pairs of samples of its own policy, new in each round; or
    `on_policy`, on such samples without pairs towards a target (see `fdpg.target`), where `loss` is None. rounds:
    parameters of the rounds with defaults.
    masks: parameters of the token weights with defaults; a `mask` of `none` is no weights. share: which of the two
    weights they are (see `mask_builder.SHARES`). mask_choices: the masks that this method may have, only `none` where
    empty; plugin_masks: whether it may also have those of plugins. averages_tokens: whether the loss divides by the sum
    of a response's weights, which is 0 in the paper's reading of activations.
    training: settings of the training section that a grid may set for this method; those of mask heads are added where
    it may have learned masks.
    statistic: what a step computes over all its pairs before their losses, see `training.step_statistics`, or
    `file.py:Class` of a plugin; adaptive: its parameters with defaults.
    needs_reference, needs_scores, needs_values: whether the loss reads log-probs of the reference, scores of the
    responses, numbers of their tokens. kl: the direction that the loss reads, or one for each value of `form`.
    """

    label: str
    loss: str | None
    hyper: Mapping[str, Any]
    equation: str
    source: str
    masks: Mapping[str, Any] = field(default_factory=dict)
    share: str = ""
    mask_choices: tuple[str, ...] = ()
    plugin_masks: bool = False
    averages_tokens: bool = False
    training: tuple[str, ...] = ("learning_rate",)
    statistic: str = ""
    adaptive: Mapping[str, Any] = field(default_factory=dict)
    needs_reference: bool = True
    needs_scores: bool = False
    needs_values: bool = False
    kl: str | Mapping[str, str] | None = None
    trainer: str = "pairs"
    rounds: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Any]:
        """Every name that a config may set, with its default; None: the value of the training section."""
        return {**self.hyper, **self.adaptive, **self.rounds, **self.masks, **dict.fromkeys(self.training_keys)}

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Settings of the training section that a grid may set instead."""
        has_learned_masks = any(MASKS[mask].is_learned for mask in self.mask_choices if mask != "none")
        return (*self.training, *(("mask_weight_decay",) if has_learned_masks else ()))

    def kl_directions(self, hyper: Mapping[str, Any]) -> tuple[str, ...]:
        """Directions of the KL that the loss reads with these keywords: `reverse`, `forward` or none."""
        if isinstance(self.kl, Mapping):
            return (self.kl[hyper.get("form", self.hyper["form"])],)
        return () if self.kl is None else (self.kl,)

    def required_reference_outputs(self, hyper: Mapping[str, Any], log_kl: bool) -> tuple[str, ...] | None:
        """What a run needs of the frozen reference and can be computed once, before any run.

        `states`: its last hidden states, for a KL or its entropy; `logps`: its log-probs of the response tokens;
        `weights~READING~SITES`: MaPO's mask. None: the run has to run the reference, as learned masks read all
        layers, which are too large to store, KTO responses to other prompts, later rounds pairs that do not exist yet,
        and a statistic of a plugin maybe any of them.
        """
        loss_kwargs, masks = self.split_parameters(hyper)
        mask = self.mask(hyper)
        reads = "nothing" if mask == "none" else MASKS[mask].reads
        if reads == "hidden_states" or (reads == "activations" and mask != "activations"):
            return None
        if self.statistic == MISMATCHED_KL or ":" in self.statistic or self.trainer != "pairs":
            return None
        needs_logps = self.needs_reference or reads == "logratio"
        reads_states = log_kl or bool(self.kl_directions(loss_kwargs)) or reads == "entropy"
        outputs = ("states",) if reads_states else ("logps",) if needs_logps else ()
        if mask == "activations":
            outputs += (f"weights~{masks['reading']}~{'+'.join(masks['activation_sites'] or ('all',))}",)
        return outputs

    def averages(self, hyper: Mapping[str, Any]) -> bool:
        """Whether the loss divides by the sum of a response's weights, so that their size does not count."""
        return self.averages_tokens or hyper.get("reduction") == "mean"

    def effective_beta(self, hyper: Mapping[str, Any], mean_weight: float | None) -> float | None:
        """beta times the mean weight m_u of a response token: what beta stands for in the loss.

        None without weights, for a loss without beta, and for one that averages over tokens.
        """
        values = {**self.hyper, **hyper}
        if mean_weight is None or "beta" not in values or self.averages(hyper):
            return None
        return values["beta"] * mean_weight

    def mask(self, hyper: Mapping[str, Any]) -> str:
        """The name of the mask; `none` for a method without."""
        return hyper.get("mask", self.masks.get("mask", "none"))

    def oracle(self, hyper: Mapping[str, Any]) -> str | None:
        """The oracle whose scores the mask reads, `data` for numbers of the user's own; None: it reads none."""
        mask = self.mask(hyper)
        if mask == "none" or not MASKS[mask].reads_values:
            return None
        return hyper.get("oracle", self.masks.get("oracle"))

    def used_parameters(self, mask: str) -> tuple[str, ...]:
        """The parameters that this method reads with such a mask."""
        of_mask = () if mask == "none" else MASKS[mask].parameters
        own = [name for name in of_mask if name in (*self.masks, *self.training_keys)]
        always = (*self.hyper, *self.adaptive, *self.rounds, *(("mask",) if "mask" in self.masks else ()))
        return (*always, *own, *self.training)

    def split_parameters(self, hyper: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Defaults overridden by `hyper`, as (keywords of the loss, keywords of build_masks; none without masks)."""
        values, mask = {**self.parameters, **hyper}, self.mask(hyper)
        loss_kwargs = {name: values[name] for name in self.hyper}
        if mask == "none":
            return loss_kwargs, {}
        names = [name for name in self.used_parameters(mask) if name in self.masks and name != "oracle"]
        if values.get("reading", "") is None:
            form = "released" if self.averages(loss_kwargs) else loss_kwargs.get("form", "paper")
            values["reading"] = READING_OF_FORM[form]
        return loss_kwargs, {"mask": mask, "share": self.share} | {name: values[name] for name in names}

    def statistic_parameters(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of the statistic, defaults overridden by `hyper`."""
        return {name: hyper.get(name, default) for name, default in self.adaptive.items()}

    def resolve(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """`hyper` with the defaults of what it leaves out, of all parameters that are read and have one."""
        loss_kwargs, masks = self.split_parameters(hyper)
        masks.pop("share", None)
        values = loss_kwargs | masks | self.statistic_parameters(hyper) | dict(hyper)
        return {name: value for name, value in values.items() if value is not None}

    @property
    def definition(self) -> dict[str, Any]:
        """What defines the method, without its parameters and its descriptions."""
        left_out = ("label", "equation", "source", "hyper", "masks", "mask_choices", "adaptive", "rounds")
        left_out += ("plugin_masks", "averages_tokens")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def training_overrides(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """What `hyper` sets instead of the training section."""
        return {name: hyper[name] for name in self.training_keys if name in hyper}
