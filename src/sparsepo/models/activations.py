"""Activations of the modules of a causal LM, found by what architectures call them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sparsepo.models.architecture import decoder_layers, first_output
from sparsepo.runtime.errors import UserError

LINEAR_TYPES = (nn.Linear, Conv1D)
OUTPUT_PROJECTIONS = {
    *("o_proj", "o_b_proj", "out_proj", "c_proj", "dense", "wo"),
    *("down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "w_out", "proj_down", "output_linear"),
}
"""What architectures call the last linear map of attention and of the feed-forward part. It need not be created last:
Phi-3 creates that of queries, keys and values after it, others a gate."""
ROUTERS = ("router", "gate")
"""In the names of maps that weigh or choose, and are never the last."""


@contextmanager
def record_activations(model: Any, sites: set[str]) -> Iterator[dict[str, list[Tensor]]]:
    """While open, each forward pass records for each site and layer the mean over features, (rows, T) in layer order.

    mlp: the input of the last linear map of a block's feed-forward part, after the nonlinearity (and gate); attention:
    the input of the last linear map of its attention, the merged heads; residual: the output of a block. Raises
    UserError for an architecture that lacks a site.
    """
    record: dict[str, list[Tensor]] = {site: [] for site in sites}

    def keep_mean(site: str, value: Any) -> None:
        value = first_output(value)
        record[site].append(value.detach().to(torch.promote_types(value.dtype, torch.float32)).mean(-1))

    handles = []
    for block in decoder_layers(model) if sites else ():
        for site in sites & {"mlp", "attention"}:
            linear = _output_projection(block, site, type(model).__name__)
            handles.append(linear.register_forward_pre_hook(lambda _, args, site=site: keep_mean(site, args[0])))
        if "residual" in sites:
            handles.append(block.register_forward_hook(lambda _, __, out: keep_mean("residual", out)))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def named_linears(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Named linear maps in a module, in its order; where an adapter wraps one, the map inside, not the adapter's."""
    linears = [(name, inner) for name, inner in module.named_modules() if isinstance(inner, LINEAR_TYPES)]
    return [(name.removesuffix(".base_layer"), inner) for name, inner in linears if ".lora_" not in f".{name}"]


def _output_projection(block: nn.Module, site: str, architecture: str) -> nn.Module:
    """The map whose output leaves a part of a block: by its name where that is known, else the one created last."""
    names = {"mlp": ("mlp", "ffn", "feed_forward"), "attention": ("attn", "attention")}[site]
    for name, module in block.named_children():
        linears = named_linears(module) if any(part in name for part in names) else []
        if linears:
            maps = [(inner, linear) for inner, linear in linears if not any(part in inner for part in ROUTERS)]
            if not maps or any("expert" in inner for inner, _ in module.named_modules()):
                raise UserError(
                    f"{architecture}: a block's {site} has experts, not one last map; use other `activation_sites`"
                )
            known = [linear for inner, linear in maps if inner.rpartition(".")[2] in OUTPUT_PROJECTIONS]
            return (known or [linear for _, linear in maps])[-1]
    own = [module for name, module in named_linears(block) if "." not in name]
    if site == "mlp" and own:  # OPT: the feed-forward maps are the block's own
        return own[-1]
    raise UserError(
        f"{architecture}: no {site} module in a block (looked for {', '.join(names)}); use other `activation_sites`"
    )
