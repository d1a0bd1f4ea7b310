"""Memory of a training: what it takes, and the largest micro-batch that fits. docs/scale.md has the formulas."""

from collections.abc import Callable
from typing import Any, NamedTuple

FLOAT = 4
"""Bytes of a parameter: weights are kept in float32 and multiplied in the precision of the config."""
OPTIMIZER_STATE = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Bytes of the two moments of a parameter."""
ACTIVATIONS = 68
"""Bytes a token, layer and unit of width for a backward pass in float32; half of it in half precision."""
HEAD_ROWS = 512
"""Rows of the output head whose logits are in memory at once, at least."""
LOGIT = 3 * FLOAT
"""Bytes of a logit with its softmax and gradient."""
USED = 0.8
"""Part of the free memory that a micro-batch may take by the formula."""


class DecoderShape(NamedTuple):
    layers: int
    width: int
    vocab_size: int

    @classmethod
    def of(cls, model: Any) -> "DecoderShape":
        """The numbers of a causal LM."""
        from sparsepo.models.architecture import decoder_layers
        from sparsepo.models.limits import vocabulary_size

        embedding = model.get_input_embeddings().weight
        width = getattr(model.config.get_text_config(decoder=True), "hidden_size", embedding.shape[1])
        return cls(len(decoder_layers(model)), width, vocabulary_size(model))


def kept_a_token(layers: int, half: bool, checkpointing: bool) -> float:
    """Bytes a token, layer and unit of width; with checkpointing a state of each layer and all activations of one."""
    unit = ACTIVATIONS / (1 + half)
    return FLOAT + unit / layers if checkpointing else unit


def micro_batch_bytes(model: DecoderShape, tokens: float, head: float, half: bool, checkpointing: bool) -> float:
    """Bytes of a forward and backward pass of `tokens`, of which `head` rows have logits at once."""
    activations = tokens * kept_a_token(model.layers, half, checkpointing) * model.layers * model.width
    return activations + LOGIT * head * model.vocab_size


def state_bytes(trained: float, parameters: float, half: bool, optimizer: str) -> float:
    """Bytes that a training adds to its models: gradients, moments, and a half-precision copy of the weights."""
    return trained * (FLOAT + OPTIMIZER_STATE[optimizer]) + half / 2 * FLOAT * parameters


def largest_size(batch: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of `batch` that fits; 1 if none does."""
    return next((size for size in divisors(batch) if fits(size)), 1)


def next_smaller(batch: int, size: int) -> int | None:
    """The largest divisor of `batch` that is at most half of `size`; None for a size of 1."""
    return next((divisor for divisor in divisors(batch) if 2 * divisor <= size), None)


def divisors(number: int) -> list[int]:
    """From the number itself down to 1."""
    return [divisor for divisor in range(number, 0, -1) if number % divisor == 0]
