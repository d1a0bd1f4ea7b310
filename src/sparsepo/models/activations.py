"""Activations of a causal LM of any architecture for MaPO's mask, as the paper or the authors' code reads them."""

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from sparsepo.models.architecture import backbone, decoder_layers, first_output, lm_head
from sparsepo.models.attention_calls import is_rotary, mean, record_attention
from sparsepo.models.block_parts import ATTENTION, block_part, feed_forward_output, is_norm, nonlinearities
from sparsepo.models.limits import text_config
from sparsepo.runtime.errors import UserError

_ROTATED = ("rotated query", "rotated key")
_PROJECTED = ("query", "key", "value", *_ROTATED)
_RESIDUAL = ("embedding", "norm", "feed-forward output", "block output", "final norm")
ACTIVATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "paper": {"mlp": ("feed-forward output",), "attention": ("attention output",), "residual": ("block output",)},
    "authors": {
        "mlp": ("nonlinearity",),
        "attention": (*_PROJECTED, "merged heads"),
        "residual": (*_RESIDUAL, "attention output"),
        "logits": ("logits",),
    },
}
"""Reading -> site -> names of its activations. Sources: arXiv 2410.05102, Section 2.3; huawei-noah/HEBO, SparsePO."""
AUTHORS_DIFFERENCES: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt2": {"residual": (*_RESIDUAL, "residual after attention")},
    "gpt_bigcode": {
        "residual": (*_RESIDUAL, "residual after attention"),
        "attention": (*_PROJECTED, "attention output"),
    },
    "gptj": {"attention": (*_PROJECTED, "attention output")},
}
"""Model type -> what the authors' code for it reads instead."""
AUTHORS_WITHOUT_MLP = ("gpt2", "gpt_bigcode")
"""Model types of which the authors' code never reads `mlp`; here it is read where it is named as a site."""
ONCE = ("embedding", "final norm", "logits")
"""Activations that a model has once, not in each layer."""
_REPORTED: WeakSet[nn.Module] = WeakSet()
"""Models whose activations were printed."""


class ActivationRecord:
    """What one forward pass shows: by name one mean over features for each module, in the order of calls.

    sites: None for all that the reading has.
    """

    def __init__(self, model: Any, reading: str, sites: Sequence[str] | None):
        self.model, self.is_named = model, sites is not None
        self.names, model_type = dict(ACTIVATIONS[reading]), text_config(model).model_type
        if reading == "authors":
            self.names |= AUTHORS_DIFFERENCES.get(model_type, {})
        self.omits_mlp = sites is None and reading == "authors" and model_type in AUTHORS_WITHOUT_MLP
        chosen = sites or [site for site in self.names if not (self.omits_mlp and site == "mlp")]
        self.names = {site: self.names[site] for site in chosen}
        self.wanted = {name for names in self.names.values() for name in names}
        self.values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, name: str, value: Tensor) -> None:
        """Keep a value (rows, T), if it is wanted."""
        if name in self.wanted:
            self.values[name].append(value)

    def by_site(self, shape: torch.Size) -> dict[str, list[Tensor]]:
        """Site -> its activations, each of this shape (rows, T); what is not one value a token is left out.

        Prints once for each model how many there are and what its architecture lacks. Raises UserError where a site
        that was asked for has none.
        """
        values = {
            name: [value.view(shape) for value in self.values[name] if value.numel() == shape.numel()]
            for names in self.names.values()
            for name in names
        }
        activations = {site: [value for name in names for value in values[name]] for site, names in self.names.items()}
        for site, names in self.names.items():
            if not activations[site] and (self.is_named or not any(activations.values())):
                raise UserError(
                    f"{type(self.model).__name__} has no activations of '{site}' that can be read "
                    f"({', '.join(names)}); use other `activation_sites`"
                )
        if self.model not in _REPORTED:
            _REPORTED.add(self.model)
            print(self._report(values, activations), flush=True)
        return {site: tensors for site, tensors in activations.items() if tensors}

    def _report(self, values: Mapping[str, Sequence[Tensor]], activations: Mapping[str, Sequence[Tensor]]) -> str:
        """One line: how many activations there are, and those that are not in each layer."""
        counts = {site: len(tensors) for site, tensors in activations.items()}
        line = f"mask from {sum(counts.values())} activations of {type(self.model).__name__} ("
        line += ", ".join(f"{site}: {count}" for site, count in counts.items()) + ")"
        if self.omits_mlp:
            line += "; mlp is left out as in the authors' code for this model, unless activation_sites names it"
        depth, rotates, missing = len(decoder_layers(self.model)), is_rotary(self.model), []
        for name, tensors in values.items():
            expected = 1 if name in ONCE else depth if rotates or name not in _ROTATED else 0
            if len(tensors) < expected:
                missing.append(name if name in ONCE else f"{name} in {expected - len(tensors)} of {depth} layers")
        return line + ("; left out, as it was not found: " + ", ".join(missing) if missing else "")


@contextmanager
def record_activations(model: Any, reading: str, sites: Sequence[str] | None = None) -> Iterator[ActivationRecord]:
    """While open, one forward pass of the model's backbone is recorded; sites: None for all that the reading has.

    Raises UserError for a model without a list of blocks.
    """
    record, blocks = ActivationRecord(model, reading, sites), decoder_layers(model)
    parts = [part for block in blocks if (part := block_part(block, ATTENTION)) is not None]
    hooks = [hook for number, block in enumerate(blocks) for hook in _block_hooks(block, record, is_first=number == 0)]
    shared = dict.fromkeys(module for block in blocks for module in nonlinearities(block))  # by blocks of OpenAI GPT
    hooks += [_add_output(module, "nonlinearity", record) for module in shared]

    def add_last(_: nn.Module, __: Any, output: Any) -> None:
        last = output.last_hidden_state
        if not record.values["block output"] or not torch.equal(mean(last), record.values["block output"][-1]):
            record.add("final norm", mean(last))
        if "logits" in record.wanted:
            record.add("logits", lm_head(model).mean_logit(last))

    hooks.append(backbone(model).register_forward_hook(add_last))
    try:
        if record.wanted & {*_PROJECTED, "merged heads"}:
            with record_attention(model, parts, record.add):
                yield record
        else:
            yield record
    finally:
        for hook in hooks:
            hook.remove()


def _block_hooks(block: nn.Module, record: ActivationRecord, *, is_first: bool) -> list[Any]:
    """Hooks on a block, on its norms and on its two parts."""
    entering: list[Tensor] = []

    def enter(_: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        entering[:] = [mean(args[0] if args else kwargs["hidden_states"])]
        if is_first:
            record.add("embedding", entering[0])

    def add_attention(part: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        value = _part_output(part, args, kwargs, output)
        record.add("attention output", value)
        if value.shape == entering[0].shape:
            record.add("residual after attention", entering[0] + value)

    def add_feed_forward(part: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        record.add("feed-forward output", _part_output(part, args, kwargs, output))

    hooks = [block.register_forward_pre_hook(enter, with_kwargs=True), _add_output(block, "block output", record)]
    hooks += [_add_output(norm, "norm", record) for norm in block.children() if is_norm(norm)]
    for part, add in ((block_part(block, ATTENTION), add_attention), (feed_forward_output(block), add_feed_forward)):
        if part is not None:
            hooks.append(part.register_forward_hook(add, with_kwargs=True))
    return hooks


def _add_output(module: nn.Module, name: str, record: ActivationRecord) -> Any:
    """A hook that records what the module puts out."""
    return module.register_forward_hook(lambda _, __, output: record.add(name, mean(first_output(output))))


def _part_output(part: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> Tensor:
    """The mean over features of what a part adds to the residual; without the residual where the part itself adds it.

    BLOOM and MPT do, and take it as an argument of this name.
    """
    value, signature = mean(first_output(output)), inspect.signature(part.forward)
    if "residual" not in signature.parameters:
        return value
    return value - mean(signature.bind(*args, **kwargs).arguments["residual"])
