"""LoRA on a frozen model, in 4 bits if wanted: a reference without memory of its own, the adapter, how it is saved."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from sparsepo.config.training import AdapterConfig, OptimisationConfig, PreferenceConfig
from sparsepo.models.adapter_folder import (
    AdapterBase,
    check_can_extend,
    join_loras,
    lora_scale,
    read_base,
    read_tensors,
    write_base_loading,
)
from sparsepo.models.architecture import decoder_layers
from sparsepo.models.block_parts import named_linears
from sparsepo.models.loading import START_NAME, load_model, save_model
from sparsepo.runtime.atomic_folder import ADAPTER_WEIGHTS, atomic_folder, read_adapter_config
from sparsepo.runtime.errors import UserError, did_you_mean

ADAPTER_NAME = "default"  # peft's name for the first adapter
TARGETS_HINT = "name the maps in adapter.target_modules, those of attention for example"


def clone_sharing_weights(model: Any) -> Any:
    """A second model on the same weights, without memory of its own: the reference of an adapted policy.

    Hooks, mode and attention are its own. An adapter that is added to the first model later is not in the second. The
    shared weights must stay frozen, which `add_adapter` does. Raises UserError for a model that has an adapter already.
    """
    if has_adapter(model):
        raise UserError("the reference is the model without adapter: call clone_sharing_weights before add_adapter")
    shared = [*model.parameters(), *(getattr(p, "quant_state", None) for p in model.parameters())]
    return copy.deepcopy(model, {id(value): value for value in shared if value is not None})


def load_policy_and_reference(
    start: Path, reference: Path, config: PreferenceConfig, loading: dict[str, Any], needs_reference: bool = True
) -> tuple[Any, Any]:
    """The policy from the folder `start`, and the reference, None if it is not needed; `loading`: see `load_model`.

    With an adapter they share their weights if the folders are the same.
    """
    if config.adapter is None:
        return load_model(start, **loading), load_model(reference, **loading) if needs_reference else None
    policy = load_model(start, quantization=config.adapter.quantization, compute=config.precision, **loading)
    if not needs_reference:
        return policy, None
    return policy, clone_sharing_weights(policy) if start == reference else load_model(reference, **loading)


def is_sharing_weights(model: Any, other: Any | None) -> bool:
    """Whether two models have the same weights in memory."""
    return other is not None and next(model.parameters()) is next(other.parameters())


def has_adapter(model: Any) -> bool:
    """Whether the model has an adapter, of `add_adapter` or another of peft, beside the one that it was loaded with."""
    return bool(set(getattr(model, "peft_config", ())) - {START_NAME})


def make_trainable(model: Any, config: OptimisationConfig) -> None:
    """Add the adapter of the config; without one, train all weights of a model that has none to train.

    Such a model is a copy of a reference that was frozen for an earlier run; one that is frozen in part stays so. Warns
    if trained weights are in half precision. Raises UserError for a model that has an adapter already, and for one in 4
    bits or in float16 with `precision: float16` that gets none.
    """
    check_no_adapter(model)
    if config.adapter is not None:
        return add_adapter(model, config.adapter)
    if getattr(model, "quantization_method", None) is not None:
        raise UserError("the weights are quantised, and cannot be trained: give the config an `adapter`")
    if not any(value.requires_grad for value in model.parameters()):
        model.requires_grad_(True)
    model.name_or_path = ""  # its weights will be those of no folder
    half = {value.dtype for value in model.parameters() if value.requires_grad and value.element_size() == 2}
    if half:
        name = str(half.pop()).removeprefix("torch.")
        message = (
            f"the trained weights are {name}, which rounds most updates of a small learning rate away: load the model "
            "with dtype=torch.float32, and write precision: bfloat16 in the config to compute in half precision"
        )
        if name == config.precision == "float16":  # torch scales the loss, and no gradients of these weights
            raise UserError(message)
        warnings.warn(message, stacklevel=3)
    return None


def check_no_adapter(model: Any) -> None:
    """Raises UserError for a model with an adapter of peft."""
    if has_adapter(model):
        raise UserError(
            f"the model ({type(model).__name__}) has an adapter already; merge it first (of a PeftModel: "
            "model.merge_and_unload(), else sparsepo.models.adapters.merge_adapter), and write a new one in the config"
        )


def add_adapter(model: Any, config: AdapterConfig) -> None:
    """Add an adapter to the model, in place, and freeze all else; B starts at 0, so that the output is unchanged.

    A is drawn from torch's global random state. The adapter is float32, or float64 like its model; its dropout is
    active in training mode only. Raises UserError for targets that the model lacks, and for a model whose weights are
    not what `quantization` says.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise UserError("an adapter needs the library peft: pip install 'sparsepo[qlora]'") from None
    check_no_adapter(model)
    start = getattr(model, "start_adapter", None)
    if start is not None and not config.merge:
        check_can_extend(start)
    if (config.quantization == "nf4") != (getattr(model, "quantization_method", None) is not None):
        raise UserError(
            f"adapter.quantization is '{config.quantization}', but the model was not loaded so: "
            f"load_model(folder, quantization='{config.quantization}')"
        )
    names = target_modules(model, config.target_modules)
    saved = modules_to_save(model, config.modules_to_save)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=names,
        fan_in_fan_out=_is_transposed(model, names[0]),
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # that of START_NAME
            model.add_adapter(lora, ADAPTER_NAME)
    except ValueError as error:
        raise UserError(f"peft cannot adapt these maps of {type(model).__name__}; {TARGETS_HINT} ({error})") from None
    if any(type(module).__name__ == "ParamWrapper" for module in model.modules()):
        raise UserError(f"peft would adapt the experts of {type(model).__name__}, too; {TARGETS_HINT}")
    if START_NAME in model.peft_config:  # on 4-bit weights: both are added to the output, the new one is trained
        model.set_adapter([START_NAME, ADAPTER_NAME])
        for name, value in model.named_parameters():
            value.requires_grad_(_is_of_adapter(name))
    for name in saved:
        _train_whole(model, name)
    model.train(model.training)  # peft leaves a new dropout in training mode
    model.peft_config[ADAPTER_NAME].target_modules = names  # peft has a set, and would save it in any order
    model.peft_config[ADAPTER_NAME].modules_to_save = saved or None
    for value in adapter_parameters(model).values():
        value.data = value.data.to(torch.promote_types(model.dtype, torch.float32))


def target_modules(model: Any, targets: str | list[str]) -> list[str]:
    """Full names of the linear maps in the blocks: all for `all-linear`, else those whose dotted names end so.

    Routers of experts are left out. Raises UserError for a target that no map in the blocks has.
    """
    blocks = decoder_layers(model)
    stack = next(name for name, module in model.named_modules() if module is blocks)
    linears = [f"{stack}.{name}" for name, _ in named_linears(blocks) if not name.endswith("router")]
    if targets == "all-linear":
        return linears
    for target in targets:
        _check_target(model, target, linears)
    return [name for name in linears if any(_ends_with(name, target) for target in targets)]


def _ends_with(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _check_target(model: Any, target: str, linears: list[str]) -> None:
    if any(_ends_with(name, target) for name in linears):
        return
    outside = (model.get_input_embeddings(), model.get_output_embeddings())
    if any(module in outside for name, module in model.named_modules() if _ends_with(name, target)):
        raise UserError(f"adapter.target_modules: '{target}' is an embedding or the output head, which are not adapted")
    known = dict.fromkeys(name.rsplit(".", 1)[-1] for name in linears)
    raise UserError(
        f"adapter.target_modules: {type(model).__name__} has no linear map '{target}' in its blocks; "
        f"{did_you_mean(target, known)}"
    )


def modules_to_save(model: Any, wanted: list[str]) -> list[str]:
    """Full names of the embedding and the output head that are named by their last parts; both where they are tied.

    Raises UserError for another name, and for weights in half precision.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    known = {name.rsplit(".", 1)[-1]: name for name, module in model.named_modules() if module in ends}
    for name in wanted:
        if name not in known:
            raise UserError(
                f"adapter.modules_to_save: '{name}' is no embedding or output head of {type(model).__name__}, "
                f"which has {' and '.join(known)}"
            )
    if wanted and ends[0].weight.element_size() == 2:
        raise UserError(
            "adapter.modules_to_save: half precision rounds most updates of whole weights away: write model: "
            "{dtype: float32}, and precision: bfloat16 to compute in half precision"
        )
    is_tied = ends[0].weight is ends[1].weight
    return [full for name, full in known.items() if name in wanted or (wanted and is_tied)]


def _train_whole(model: Any, name: str) -> None:
    """Give a module weights of its own to train; the others may be those of the reference. Tied ones stay tied."""
    for leaf, value in list(model.get_submodule(name).named_parameters()):
        if not value.requires_grad:
            own = nn.Parameter(value.detach().clone())
            for module in model.modules():
                if getattr(module, leaf, None) is value:
                    setattr(module, leaf, own)


def adapter_parameters(model: Any) -> nn.ParameterDict:
    """The adapter's own parameters, and what is trained beside it, not copies, by name (with / for the dot)."""
    named = model.named_parameters()
    return nn.ParameterDict(
        {name.replace(".", "/"): value for name, value in named if value.requires_grad or _is_of_adapter(name)}
    )


def _is_of_adapter(name: str) -> bool:
    return ".lora_" in name and f".{ADAPTER_NAME}." in f"{name}."


@torch.no_grad()
def merge_adapter(model: Any) -> Any:
    """A plain model, on the CPU in the model's dtype, that computes what the adapted one does, up to rounding.

    4-bit weights become W = dequantised + (alpha / rank) B A, not rounded to 4 bits again: the model that was
    trained. The original weights with the adapter would be another model, as 4 bits change a log-prob by 0.7 on average
    (SmolLM2-135M). Log-probs of the merged and the adapted model differ by 1e-5 on average and 6e-5 at most in float32,
    by 0.02 and 0.13 when the adapted one multiplies in bfloat16. So the merged model has a KL against the original one
    before any training, but none against a reference with the same 4 bits.
    """
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    with no_init_weights():
        plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    for name, target in plain.state_dict().items():
        module, _, leaf = name.rpartition(".")
        value = _plain_value(model.get_submodule(module), leaf)
        transposed = leaf == "weight" and _is_transposed(plain, module) and not _is_transposed(model, module)
        target.copy_(value.T if transposed else value)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.eval()


def save_trained(model: Any, tokenizer: Any, folder: str | Path, adapter: AdapterConfig | None) -> None:
    """Write a model folder that `load_model` reads: of an adapted model its adapter, or with `merge` plain weights.

    An adapter is written in peft's layout. Its base is the folder or the hub id, with the commit, that the model was
    loaded from. A model that was loaded with an adapter is written as one adapter of both, see `join_loras`. Warns if
    the base is nowhere on a disk or hub, as for a model made in memory. Without an adapter of its own, a 4-bit model
    that was loaded with one is merged.
    """
    with atomic_folder(folder) as place:
        if not has_adapter(model):
            save_model(merge_adapter(model) if hasattr(model, "peft_config") else model, tokenizer, place)
            model.name_or_path = str(Path(folder).absolute())
        elif adapter is not None and adapter.merge:
            save_model(merge_adapter(model), tokenizer, place)
        else:
            _save_adapter(model, place)
            tokenizer.save_pretrained(place)


def _save_adapter(model: Any, folder: Path) -> None:
    config, start, base = (
        copy.deepcopy(model.peft_config[ADAPTER_NAME]),
        getattr(model, "start_adapter", None),
        _base_of(model),
    )
    lora = {name.replace("/", "."): value.detach() for name, value in adapter_parameters(model).items()}
    tensors = {name.replace(f".{ADAPTER_NAME}.", "."): value.cpu().contiguous() for name, value in lora.items()}
    for module in config.modules_to_save or []:  # of tied weights each name has a copy
        state = model.get_submodule(module).state_dict()
        tensors |= {f"{module}.{leaf}": value.cpu().clone() for leaf, value in state.items()}
    if start is not None:
        earlier, first = read_adapter_config(start), read_base(start)
        base = base._replace(name=first.name, revision=first.revision, dtype=first.dtype or base.dtype)
        tensors = join_loras(read_tensors(start), lora_scale(earlier), tensors, config.lora_alpha / config.r)
        config.r = config.lora_alpha = next(value.shape[0] for name, value in tensors.items() if ".lora_A." in name)
        config.target_modules = [name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name]
        config.modules_to_save = sorted({*(earlier.get("modules_to_save") or ()), *(config.modules_to_save or ())})
    if not base.name:
        warnings.warn(
            f"the weights of {type(model).__name__} are in no folder, so the adapter cannot name its base: save the "
            "model and load it (load_model) before the training, or write adapter: {merge: true}",
            stacklevel=4,
        )
    config.base_model_name_or_path, config.revision = base.name, base.revision
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    config.save_pretrained(folder)
    save_file({f"base_model.model.{name}": value for name, value in tensors.items()}, folder / ADAPTER_WEIGHTS)
    write_base_loading(base, folder)


def _base_of(model: Any) -> AdapterBase:
    """Where a model was loaded from, and how."""
    name = model.name_or_path
    is_folder = bool(name) and Path(name).is_dir()
    quantization = getattr(model.config, "quantization_config", None)
    bits = {}
    if quantization is not None:
        compute = str(quantization.bnb_4bit_compute_dtype).removeprefix("torch.")
        bits = {"quantization": quantization.bnb_4bit_quant_type, "compute": compute}
    return AdapterBase(
        str(Path(name).absolute()) if is_folder else name,
        None if is_folder else getattr(model.config, "_commit_hash", None),
        str(model.dtype).removeprefix("torch."),
        **bits,
    )


def _plain_value(owner: nn.Module, name: str) -> Tensor:
    """A tensor of a module, dequantised and with the module's adapter merged, if it has one."""
    base = getattr(owner, "base_layer", owner)
    value = getattr(base, name)
    if hasattr(value, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        value = dequantize_4bit(value.data, value.quant_state)
    if base is owner or name != "weight":
        return value
    for adapter in owner.active_adapters:
        if adapter in owner.lora_A:
            delta = owner.get_delta_weight(adapter)
            value = value.to(delta.dtype) + delta
    return value


def _is_transposed(model: Any, module: str) -> bool:
    """Whether a map's weight is (in, out), as those of GPT-2 are until they are quantised."""
    owner = model.get_submodule(module)
    return isinstance(getattr(owner, "base_layer", owner), Conv1D)
