"""The parts of a causal LM of any architecture: its states, its output head, and what its modules compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sparsepo.attention import leave_attention_alone, visibility
from sparsepo.errors import UserError
from sparsepo.objective.terms import Head

LINEAR = (nn.Linear, Conv1D)
See = Callable[[int, int, Tensor], None]
"""(layer, depth, states (rows, T, d)) of layers 0 .. depth - 1, the last after the final norm."""


def backbone(model: Any) -> nn.Module:
    """The model without its output head: ids -> last hidden states (after the final norm)."""
    return model.base_model if model.base_model is not model else model.get_decoder()


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
        for layer, block in enumerate(blocks[:-1]):
            handles.append(block.register_forward_hook(lambda _, __, out, at=layer: see(at, depth, _first(out))))
        last = backbone(model).register_forward_hook(lambda _, __, out: see(depth - 1, depth, out.last_hidden_state))
        handles.append(last)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def lm_head(model: Any) -> Head:
    """The output head with whatever the architecture does to its logits; see `check_head`."""
    output, config = model.get_output_embeddings(), model.config
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)  # Granite divides
    return Head(output.weight, output.bias, scale, getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def check_head(model: Any) -> None:
    """Raises UserError, naming the architecture, when `lm_head` is not the model's own, or it looks ahead."""
    name, device = type(model).__name__, model.get_output_embeddings().weight.device
    ids = torch.arange(4, device=device)[None] % model.config.vocab_size
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    own = model(**batch, use_cache=False).logits.float()
    logits = lm_head(model).logits(hidden_states(model, batch)).float()
    if not torch.allclose(own, logits, atol=1e-3 * max(1.0, float(own.abs().max())), rtol=1e-2):
        raise UserError(f"{name} changes its logits in a way that is not known here, so its log-probs would be wrong")
    alone = model(input_ids=ids[:, :1], attention_mask=batch["attention_mask"][:, :1], use_cache=False).logits.float()
    if not torch.allclose(own[:, :1], alone, atol=1e-2 * max(1.0, float(own.abs().max())), rtol=1e-2):
        raise UserError(f"{name} looks ahead: what it says about a token depends on later ones, so it is no causal LM")


def decoder_layers(model: Any) -> nn.ModuleList:
    """The stack of blocks, whatever the architecture calls it: the list as long as the config says."""
    depth = model.config.num_hidden_layers
    found = [m for m in backbone(model).modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not found:
        raise UserError(f"{type(model).__name__} has no list of {depth} blocks to read activations from")
    return found[0]


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
    names = {"mlp": ("mlp", "ffn", "feed_forward"), "attention": ("attn", "attention")}[kind]
    for name, module in block.named_children():
        found = linears(module)
        if any(part in name for part in names) and found:
            if any("expert" in inner for inner, _ in module.named_modules()):
                raise UserError(f"{architecture}: a block's {kind} has experts, not one last map; use other `kinds`")
            return found[-1][1]
    own = [module for name, module in linears(block) if "." not in name]
    if kind == "mlp" and own:  # OPT: the feed-forward maps are the block's own
        return own[-1]
    raise UserError(f"{architecture}: no {kind} module in a block (looked for {', '.join(names)}); use other `kinds`")
