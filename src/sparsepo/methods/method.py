"""One row of the table of methods: what a method minimises, and what it needs. Plain data, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LEARNED = ("layers", "last", "feed_forward_layers", "feed_forward_last", "binary_layers", "binary_last")
"""Masks that are trained."""
BROUGHT = ("given", "selected", "excess")
"""Masks that are made of numbers that came with the pairs, one a token."""
_OF_LEARNED = ("l1_u", "l1_d", "init_sparsity", "mask_weight_decay")
_SELECTING = ("k_chosen", "k_rejected", "oracle")
MASKS: dict[str, tuple[str, ...]] = {
    "layers": _OF_LEARNED,
    "last": _OF_LEARNED,
    "feed_forward_layers": _OF_LEARNED,
    "feed_forward_last": _OF_LEARNED,
    "binary_layers": _OF_LEARNED,
    "binary_last": _OF_LEARNED,
    "activations": ("activation_sites", "normalisation"),
    "given": ("oracle",),
    "selected": _SELECTING,
    "excess": _SELECTING,
    "random": (),
    "uniform": (),
}
"""Mask -> the parameters that it looks at; its class stands in `masks.HEADS`."""


MISMATCHED_KL = "mismatched_kl"
RUNNING_MARGIN = "running_margin"


@dataclass(frozen=True)
class Method:
    """One row. `loss` names a function of `losses.py`; `hyper` are its keywords with defaults.

    `trainer`: `pairs`, on given preference pairs; `rounds`, on pairs of samples of its own policy, made anew in each
    round; or `on_policy`, on such samples without pairs towards a target (see `targets.py`), where `loss` is None.
    `rounds`: what a grid may say of the rounds, with defaults.

    `masks` are parameters of the token weights with defaults, `share` says which of the two weights they make (see
    `masks.build_masks`); a `mask` of `none` is no weights. `mask_choices`: the masks that this method may have, all but
    `none` where empty. A config may set the keys of `hyper`, `masks` and `adaptive` (to what `PARAMETERS` says).
    `training` are settings of the training section that a grid may set instead, for this method; those of mask heads
    are added where it may have learned masks. `statistic` is what a step computes over all its pairs before their
    losses, see `training.statistics`, and `adaptive` its keywords. `needs_scores`, `needs_values`: the loss itself
    looks at scores of the responses, at numbers of their tokens. `kl`: the direction that the loss looks at, or one for
    each value of `form`.
    """

    label: str
    loss: str | None
    hyper: Mapping[str, Any]
    equation: str
    source: str
    masks: Mapping[str, Any] = field(default_factory=dict)
    share: str = ""
    mask_choices: tuple[str, ...] = ()
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
        """Every name a config may set, with its default; None is what the training section says."""
        return {**self.hyper, **self.adaptive, **self.rounds, **self.masks, **dict.fromkeys(self.of_training)}

    @property
    def of_training(self) -> tuple[str, ...]:
        """Settings of the training section that a grid may set instead."""
        return (*self.training, *(("mask_weight_decay",) if set(self.mask_choices) & set(LEARNED) else ()))

    def kl_directions(self, hyper: Mapping[str, Any]) -> tuple[str, ...]:
        """Directions of the KL that the loss looks at with these keywords: `reverse`, `forward` or none."""
        if isinstance(self.kl, Mapping):
            return (self.kl[hyper.get("form", self.hyper["form"])],)
        return () if self.kl is None else (self.kl,)

    def required_reference_outputs(self, given: Mapping[str, Any], log_kl: bool) -> tuple[str, ...] | None:
        """What a run needs of the frozen reference and can be computed once, before any run.

        `states`: its last hidden states, for a KL; `logps`: its log-probs of the response tokens;
        `weights~NORMALISATION~SITES`: MaPO's mask. None: it has to be run, as learned masks look at all layers, which
        are too large to store, KTO at responses to other prompts, and pairs of later rounds are not known before.
        """
        hyper, masks = self.split(given)
        mask = self.mask(given)
        if mask in LEARNED or self.statistic == MISMATCHED_KL or self.trainer != "pairs":
            return None
        compares = self.needs_reference or mask == "excess"
        needs = ("states",) if log_kl or self.kl_directions(hyper) else ("logps",) if compares else ()
        if mask == "activations":
            needs += (f"weights~{masks['normalisation']}~{'+'.join(masks['activation_sites'])}",)
        return needs

    def mask(self, given: Mapping[str, Any]) -> str:
        """Where the token weights come from; `none` for a method without."""
        return given.get("mask", self.masks.get("mask", "none"))

    def oracle(self, given: Mapping[str, Any]) -> str | None:
        """The oracle whose numbers the pairs bring, `data` where they are the user's own; None: no numbers are read."""
        return given.get("oracle", self.masks.get("oracle")) if self.mask(given) in BROUGHT else None

    def reads(self, mask: str) -> tuple[str, ...]:
        """The parameters that this method looks at with such a mask."""
        of_mask = () if mask == "none" else MASKS[mask]
        own = [name for name in of_mask if name in (*self.masks, *self.of_training)]
        always = (*self.hyper, *self.adaptive, *self.rounds, *(("mask",) if "mask" in self.masks else ()))
        return (*always, *own, *self.training)

    def split(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Defaults overridden by `given`, as (keywords of the loss, keywords of build_masks; none without masks)."""
        values, mask = {**self.parameters, **given}, self.mask(given)
        hyper = {name: values[name] for name in self.hyper}
        if mask == "none":
            return hyper, {}
        read = [name for name in self.reads(mask) if name in self.masks and name != "oracle"]
        return hyper, {"mask": mask, "share": self.share} | {name: values[name] for name in read}

    def adaptation(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords of the statistic, defaults overridden by `given`."""
        return {name: given.get(name, default) for name, default in self.adaptive.items()}

    def resolved(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` with the defaults of what it leaves out, of all that is read."""
        hyper, masks = self.split(given)
        masks.pop("share", None)
        return hyper | masks | self.adaptation(given) | dict(given)

    @property
    def definition(self) -> dict[str, Any]:
        """What makes the method what it is, besides its hyper-parameters; words about it left out."""
        beside = ("label", "equation", "source", "hyper", "masks", "mask_choices", "adaptive", "rounds")
        return {name: value for name, value in vars(self).items() if name not in beside}

    def training_settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What `given` says in place of the training section."""
        return {name: given[name] for name in self.of_training if name in given}
