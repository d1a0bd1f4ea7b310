"""The parts of a decoder block of any architecture, found by the kind of a module."""

from collections.abc import Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

LINEAR_TYPES = (nn.Linear, Conv1D)
ATTENTION = ("attention", "attn")
FEED_FORWARD = ("mlp", "ffn", "feed_forward", "feedforward", "moe")
"""What the attribute or the class of a part of a block is called, one of these among other words."""
ACTIVATION_MODULES = ("torch.nn.modules.activation", "transformers.activations")


def named_linears(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Named linear maps in a module, in its order; where an adapter wraps one, the map inside, not the adapter's."""
    linears = [(name, inner) for name, inner in module.named_modules() if isinstance(inner, LINEAR_TYPES)]
    return [(name.removesuffix(".base_layer"), inner) for name, inner in linears if ".lora_" not in f".{name}"]


def block_part(block: nn.Module, words: tuple[str, ...]) -> nn.Module | None:
    """The first child with parameters whose attribute or class has one of these words, but no norm; None without."""
    for name, module in block.named_children():
        label = f"{name} {type(module).__name__}".lower()
        has_parameters = any(True for _ in module.parameters())
        if has_parameters and not is_norm(module) and any(word in label for word in words):
            return module
    return None


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a LayerNorm, an RMSNorm or another norm."""
    return "norm" in type(module).__name__.lower()


def nonlinearities(block: nn.Module) -> Iterator[nn.Module]:
    """The activation functions of a block's feed-forward part, where it has no experts, which see some tokens only."""
    feed_forward = block_part(block, FEED_FORWARD)
    modules = list(block.named_children() if feed_forward is None else feed_forward.named_modules())
    if any("expert" in name for name, _ in modules):
        return
    for _, module in modules:
        kind = type(module)
        if kind.__module__ in ACTIVATION_MODULES or kind.__name__.lower().endswith("gelu"):  # BLOOM has its own
            yield module


def feed_forward_output(block: nn.Module) -> nn.Module | None:
    """The module whose output leaves the feed-forward part: the part, or the block's own last linear map (OPT)."""
    own = [module for name, module in named_linears(block) if "." not in name]
    return block_part(block, FEED_FORWARD) or (own[-1] if own else None)
