"""LoRA on a frozen model, of 4 bits if need be: a reference that costs no memory, an adapter, plain weights again."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from sparsepo.config.training import AdapterConfig, PreferenceConfig
from sparsepo.models.architecture import decoder_layers, linears
from sparsepo.models.loading import load_model, save_model
from sparsepo.runtime.atomic_folder import atomic_folder
from sparsepo.runtime.errors import UserError, did_you_mean

NAME = "default"  # of the one adapter, in peft's words
OTHERS = "name the maps in adapter.target_modules, those of attention for example"


def clone_sharing_weights(model: Any) -> Any:
    """A second model on the same weights, which take no further memory: the reference of an adapted policy.

    Make it before the adapter: what is added to the one is not in the other, so the twin stays the model as it was, as
    if the policy had its adapter off; hooks, mode and attention are its own. It is right only while the shared weights
    are frozen, which `add` sees to.
    """
    if has_adapter(model):
        raise UserError("the reference is the model before it is adapted: make the twin first, then add the adapter")
    shared = [*model.parameters(), *(getattr(p, "quant_state", None) for p in model.parameters())]
    return copy.deepcopy(model, {id(value): value for value in shared if value is not None})


def policy_and_reference(
    start: Path, folder: Path, config: PreferenceConfig, loading: dict[str, Any], referred: bool = True
) -> tuple[Any, Any]:
    """The policy as it starts, and the reference if it is referred to; with an adapter they share what is the same."""
    if config.adapter is None:
        return load_model(start, **loading), load_model(folder, **loading) if referred else None
    policy = load_model(start, quantization=config.adapter.quantization, compute=config.precision, **loading)
    apart = load_model(folder, **loading) if referred and start != folder else None
    return policy, apart or (clone_sharing_weights(policy) if referred else None)


def are_twins(model: Any, other: Any | None) -> bool:
    """Whether two models have their weights in common."""
    return other is not None and next(model.parameters()) is next(other.parameters())


def has_adapter(model: Any) -> bool:
    """Whether `add` was here."""
    return hasattr(model, "peft_config")


def add(model: Any, config: AdapterConfig) -> None:
    """Put an adapter on the model, in place, and freeze all else; B starts at 0, so that nothing changes yet.

    A is drawn from torch's global random state. The adapter is float32, or float64 like its model; its dropout is on in
    training mode only, and B is 0 whatever is dropped before it. Raises UserError for targets that the model lacks, and
    for a model whose weights are not what `quantization` says.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise UserError("an adapter needs the library peft: pip install 'sparsepo[qlora]'") from None
    if has_adapter(model):
        raise UserError("the model has an adapter already; merge it first (sparsepo.models.adapters.merged)")
    if (config.quantization == "nf4") != (getattr(model, "quantization_method", None) is not None):
        raise UserError(
            f"adapter.quantization is '{config.quantization}', but the model was not loaded so: "
            f"load_model(folder, quantization='{config.quantization}')"
        )
    names = targets_of(model, config.target_modules)
    flips = _is_transposed(model, names[0])
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=names,
        fan_in_fan_out=flips,
    )
    try:
        model.add_adapter(lora, NAME)
    except ValueError as error:
        raise UserError(f"peft puts no adapter on these maps of {type(model).__name__}; {OTHERS} ({error})") from None
    if any(type(module).__name__ == "ParamWrapper" for module in model.modules()):
        raise UserError(f"peft would adapt the experts of {type(model).__name__}, too; {OTHERS}")
    model.train(model.training)  # peft leaves a new dropout in training mode
    model.peft_config[NAME].target_modules = names  # peft made a set of it, and would save it in any order
    for value in trained(model).values():
        value.data = value.data.to(torch.promote_types(model.dtype, torch.float32))


def targets_of(model: Any, wanted: str | list[str]) -> list[str]:
    """Full names of the linear maps in the blocks that `wanted` means: `all-linear`, or ends of dotted names.

    Routers of experts are none: they put out a choice.
    """
    blocks = decoder_layers(model)
    stack = next(name for name, module in model.named_modules() if module is blocks)
    found = [f"{stack}.{name}" for name, _ in linears(blocks) if not name.endswith("router")]
    if wanted == "all-linear":
        return found
    for name in wanted:
        _check_target(model, name, found)
    return [full for full in found if any(f".{full}".endswith(f".{name}") for name in wanted)]


def _check_target(model: Any, name: str, found: list[str]) -> None:
    if any(f".{full}".endswith(f".{name}") for full in found):
        return
    outside = (model.get_input_embeddings(), model.get_output_embeddings())
    if any(module in outside for full, module in model.named_modules() if f".{full}".endswith(f".{name}")):
        raise UserError(f"adapter.target_modules: '{name}' is an embedding or the output head, which stay as they are")
    known = dict.fromkeys(full.rsplit(".", 1)[-1] for full in found)
    raise UserError(
        f"adapter.target_modules: {type(model).__name__} has no linear map '{name}' in its blocks; "
        + did_you_mean(name, known)
    )


def trained(model: Any) -> nn.ParameterDict:
    """The adapter's own tensors, the very ones, by name (with / for the dot)."""
    found = {name: value for name, value in model.named_parameters() if ".lora_" in name}
    return nn.ParameterDict({name.replace(".", "/"): value for name, value in found.items()})


@torch.no_grad()
def merged(model: Any) -> Any:
    """A plain model, on the CPU in the model's dtype, that computes what the adapted one does, up to rounding.

    Of 4-bit weights it holds the values that they stand for: W = dequantised + (alpha / rank) B A, not rounded to 4
    bits again. So it is the model that was trained; the first model with the adapter on it would be another one, as the
    4 bits alone change a log-prob by 0.7 on average (SmolLM2-135M). Merged and adapted differ by 1e-5 at most 6e-5 in
    float32, by 0.02 at most 0.13 when the adapted one multiplies in bfloat16. Against the first model the merged one
    thus has a KL before any training; a reference of the same 4 bits has none.
    """
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    with no_init_weights():
        plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    for name, target in plain.state_dict().items():
        module, _, leaf = name.rpartition(".")
        value = _plain_value(model.get_submodule(module), leaf)
        flipped = leaf == "weight" and _is_transposed(plain, module) and not _is_transposed(model, module)
        target.copy_(value.T if flipped else value)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.eval()


def save(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """A plain model folder; an adapter is merged into it, see `merged`, and lies beside the weights in `adapter`."""
    with atomic_folder(folder) as place:
        if has_adapter(model):
            model.save_pretrained(place / "adapter")
            model = merged(model)
        save_model(model, tokenizer, place)


def _plain_value(owner: nn.Module, name: str) -> Tensor:
    """A tensor of a module without 4 bits, and with the adapter of the module, if it has one, in it."""
    base = getattr(owner, "base_layer", owner)
    value = getattr(base, name)
    if hasattr(value, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        value = dequantize_4bit(value.data, value.quant_state)
    if base is owner or name != "weight":
        return value
    change = owner.get_delta_weight(NAME)
    return value.to(change.dtype) + change


def _is_transposed(model: Any, module: str) -> bool:
    """Whether a map's weight is (in, out), as GPT-2's are until they are quantised."""
    owner = model.get_submodule(module)
    return isinstance(getattr(owner, "base_layer", owner), Conv1D)
