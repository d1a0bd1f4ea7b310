"""Masks by name, and the parameters that each reads. Plain data, without torch."""

LEARNED = ("layers", "last", "feed_forward_layers", "feed_forward_last", "binary_layers", "binary_last")
"""Masks that are trained."""
BROUGHT = ("given", "selected", "excess")
"""Masks that are made of numbers that came with the pairs, one a token."""
_OF_LEARNED = ("l1_u", "l1_d", "initial_zeros", "mask_weight_decay")
_SELECTING = ("k_chosen", "k_rejected", "oracle")
MASKS: dict[str, tuple[str, ...]] = {
    "layers": _OF_LEARNED,
    "last": _OF_LEARNED,
    "feed_forward_layers": _OF_LEARNED,
    "feed_forward_last": _OF_LEARNED,
    "binary_layers": _OF_LEARNED,
    "binary_last": _OF_LEARNED,
    "activations": ("kinds", "normalisation"),
    "given": ("oracle",),
    "selected": _SELECTING,
    "excess": _SELECTING,
    "random": (),
    "uniform": (),
}
"""Mask -> the parameters that it looks at; its class stands in `masks.HEADS`."""
