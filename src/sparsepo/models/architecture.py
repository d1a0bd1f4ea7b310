"""The parts of a causal LM of any architecture: its states, its output head, and what its modules compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sparsepo.models.segment_attention import leave_attention_alone, visibility
from sparsepo.objective.token_terms import Head
from sparsepo.runtime.errors import UserError

LINEAR = (nn.Linear, Conv1D)
LAST_MAPS = {
    *("o_proj", "o_b_proj", "out_proj", "c_proj", "dense", "wo"),
    *("down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "w_out", "proj_down", "output_linear"),
}
"""What architectures call the last linear map of attention, and of the feed-forward part. It need not be made last:
Phi-3 makes that of queries, keys and values after it, others a gate."""
CHOOSES = ("router", "gate")
"""In the names of maps that weigh or choose, and are never the last."""
LARGE = 100.0
"""Logits above any cap in use (15 to 50)."""
See = Callable[[int, int, Tensor], None]
"""(layer, depth, states (rows, T, d)) of layers 0 .. depth - 1, the last after the final norm."""


def backbone(model: Any) -> nn.Module:
    """The model without its output head: ids -> last hidden states (after the final norm)."""
    if model.base_model is not model:
        return model.base_model
    decoder = model.get_decoder()
    return model.model if decoder is model else decoder  # Llama 4 names neither


def hidden_states(model: Any, batch: dict[str, Any], see: See | None = None) -> Tensor:
    """Last hidden states (rows, T, d) of a batch in any layout, after the final norm.

    `see` is shown the states of every layer as they are computed; nothing else keeps them. Position ids are explicit,
    so that padding, on whichever side, never moves a token.
    """
    positions = batch.get("position_ids")
    if positions is None:
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    with seeing(model, see):
        return backbone(model)(
            input_ids=batch["input_ids"],
            attention_mask=visibility(model, batch),
            position_ids=positions,
            use_cache=False,
            return_dict=True,
        ).last_hidden_state


@contextmanager
def seeing(model: Any, see: See | None) -> Iterator[None]:
    """While open, each forward shows `see` what every block puts out; the last state comes from the whole backbone."""
    handles = []
    if see is not None:
        blocks = decoder_layers(model)
        depth = len(blocks)

        def show(layer: int, states: Tensor) -> None:
            if states.dim() != 3 or states.shape[-1] != model.config.hidden_size:
                raise UserError(
                    f"{type(model).__name__}: layer {layer} of {depth} puts out {tuple(states.shape)}, not a state of "
                    f"width {model.config.hidden_size} a token, so learned masks cannot look at it; use another `mask`"
                )
            see(layer, depth, states)

        for layer, block in enumerate(blocks[:-1]):
            handles.append(block.register_forward_hook(lambda _, __, out, at=layer: show(at, _first(out))))
        last = backbone(model).register_forward_hook(lambda _, __, out: show(depth - 1, out.last_hidden_state))
        handles.append(last)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple | list) else out


def lm_head(model: Any) -> Head:
    """The output head with whatever the architecture does to its logits; see `check_head`."""
    output, config = model.get_output_embeddings(), model.config

    def number(*names: str) -> float | None:
        found = (getattr(config, name, None) for name in names)
        return next((value for value in found if isinstance(value, int | float)), None)

    scale = number("logit_scale", "lm_head_multiplier") or 1.0  # Cohere and Falcon-H1 multiply
    scale = scale / (number("logits_scaling") or 1.0)  # Granite divides
    cap = number("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM
    return Head(output.weight, output.bias, scale, cap)


@torch.no_grad()
def check_head(model: Any) -> None:
    """Raises UserError, naming the architecture, when log-probs of a padded batch would not be the model's own.

    So where `lm_head` makes other logits, also of states so large that they come near any cap; and where most tokens
    see later ones, or padding behind their sequence.
    """
    name, device = type(model).__name__, model.get_output_embeddings().weight.device
    ids = torch.arange(4, device=device)[None] % model.config.vocab_size
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    head, states = lm_head(model), hidden_states(model, batch)
    own = _own_logits(model, batch)
    if states.shape[-1] != head.weight.shape[-1] or not _close(head.logits(states), own):
        raise UserError(f"{name} changes its logits in a way that is not known here, so its log-probs would be wrong")
    factor = LARGE / float(own.where(own.isfinite(), 0.0).abs().max().clamp_min(1e-6))
    large = _own_logits(model, batch, factor)
    if large is not None and not _close(head.logits(states * factor), large):
        raise UserError(f"{name} changes large logits in a way that is not known here, so log-probs would be wrong")
    begun = [
        hidden_states(model, {key: values[:, :size] for key, values in batch.items()})[:, -1] for size in (1, 2, 3)
    ]
    if not _mostly_close(torch.stack(begun, 1), states[:, :3]):
        raise UserError(f"{name} looks ahead: what it says about a token depends on later ones, so it is no causal LM")
    behind = {"input_ids": F.pad(ids, (0, 4)), "attention_mask": F.pad(batch["attention_mask"], (0, 4))}
    if not _mostly_close(hidden_states(model, behind)[:, :4], states):
        raise UserError(f"{name} sees padding: what it says about a token depends on what stands behind the sequence")


def _mostly_close(found: Tensor, expected: Tensor) -> bool:
    """Whether most of the states (1, t, d) are: rounding may send a few tokens to other experts."""
    same = [_close(found[:, at], expected[:, at], 0.05) for at in range(found.shape[1])]
    return 2 * sum(same) > len(same)


def _own_logits(model: Any, batch: dict[str, Any], factor: float = 1.0) -> Tensor | None:
    """What the model itself says, with the input of its output map times `factor`; None if it has no such module."""
    entered: list[bool] = []

    def enlarge(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entered.append(True)
        return args[0] * factor, *args[1:]

    handle = model.get_output_embeddings().register_forward_pre_hook(enlarge)
    try:
        logits = model(**batch, use_cache=False).logits.float()
    finally:
        handle.remove()
    return logits if entered or factor == 1 else None


def _close(found: Tensor, expected: Tensor, of_largest: float = 1e-3) -> bool:
    """Up to rounding in bfloat16; infinite values must be the same."""
    largest = float(expected.where(expected.isfinite(), 0.0).abs().max())
    return torch.allclose(found.float(), expected.float(), atol=of_largest * max(1.0, largest), rtol=1e-2)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The stack of blocks, whatever the architecture calls it: the list as long as the config says."""
    depth = model.config.num_hidden_layers
    found = [m for m in backbone(model).modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not found:
        raise UserError(f"{type(model).__name__} has no list of {depth} blocks to read activations from")
    return found[0]


def checkpoint_blocks(model: Any) -> None:
    """Compute each block again in the backward pass instead of keeping it. Raises UserError where that is not known."""
    try:
        model.activation_checkpointing_enable()
    except ValueError as error:
        raise UserError(f"gradient_checkpointing: {error}") from None


def compile_blocks(model: Any) -> None:
    """Compile each block's forward pass, once for all of them and for batches of any size; attention stays as it is.

    Hooks on blocks stay outside of it, and so do adapters' weights, which are inputs of it like all others.
    """
    leave_attention_alone()
    for block in decoder_layers(model):
        block.forward = torch.compile(block.forward, dynamic=True)


@contextmanager
def recording(model: Any, kinds: set[str]) -> Iterator[dict[str, list[Tensor]]]:
    """While open, each forward records per kind and layer the mean over features, (s, T) tensors in layer order.

    mlp: what enters the feed-forward block's last linear map, that is its output after the nonlinearity (and gate);
    attention: what enters the attention block's last linear map, that is the merged heads; residual: a block's output.
    """
    record: dict[str, list[Tensor]] = {kind: [] for kind in kinds}

    def keep(kind: str, value: Any) -> None:
        value = _first(value)
        record[kind].append(value.detach().to(torch.promote_types(value.dtype, torch.float32)).mean(-1))

    handles = []
    for block in decoder_layers(model) if kinds else ():
        for kind in kinds & {"mlp", "attention"}:
            linear = _last_linear(block, kind, type(model).__name__)
            handles.append(linear.register_forward_pre_hook(lambda _, args, kind=kind: keep(kind, args[0])))
        if "residual" in kinds:
            handles.append(block.register_forward_hook(lambda _, __, out: keep("residual", out)))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def linears(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Named linear maps in a module, in its order; where an adapter wraps one, the map inside, not the adapter's."""
    found = [(name, inner) for name, inner in module.named_modules() if isinstance(inner, LINEAR)]
    return [(name.removesuffix(".base_layer"), inner) for name, inner in found if ".lora_" not in f".{name}"]


def _last_linear(block: nn.Module, kind: str, architecture: str) -> nn.Module:
    """The map whose output leaves a part of a block: by its name where that is known, else the one made last."""
    names = {"mlp": ("mlp", "ffn", "feed_forward"), "attention": ("attn", "attention")}[kind]
    for name, module in block.named_children():
        maps = linears(module) if any(part in name for part in names) else []
        if maps:
            found = [(inner, linear) for inner, linear in maps if not any(part in inner for part in CHOOSES)]
            if not found or any("expert" in inner for inner, _ in module.named_modules()):
                raise UserError(
                    f"{architecture}: a block's {kind} has experts, not one last map; use other `activation_sites`"
                )
            known = [linear for inner, linear in found if inner.rpartition(".")[2] in LAST_MAPS]
            return (known or [linear for _, linear in found])[-1]
    own = [module for name, module in linears(block) if "." not in name]
    if kind == "mlp" and own:  # OPT: the feed-forward maps are the block's own
        return own[-1]
    raise UserError(
        f"{architecture}: no {kind} module in a block (looked for {', '.join(names)}); use other `activation_sites`"
    )
