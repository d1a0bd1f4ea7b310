"""What computing costs: bytes in memory and on disk, floating-point operations, seconds. Plain arithmetic on shapes.

Symbols: N weights, B those inside the blocks, T trained ones, L layers, d width, V vocabulary, s tokens of a sequence.
"""

from dataclasses import dataclass

from sparsepo.config.training import AdapterConfig, OptimisationConfig
from sparsepo.workflow.cost.shapes import Shape

HALF = ("bfloat16", "float16")
SINGLE = 4
"""Bytes of a weight: policies and references are kept in float32 and multiplied in the precision of the config."""
NF4 = 0.516
"""Bytes of a weight in NF4: 4 bits, and 0.127 for its share of doubly quantised scales (Dettmers et al. 2023)."""
STATE = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Bytes of AdamW's two moments a weight: float32, or 8 bits each (Dettmers et al. 2022)."""
ACTIVATIONS = 34
"""Bytes a token, layer and unit of width that the backward pass needs, in half precision; twice that in float32.

Korthikanti et al. 2022, equation 1, without what fused attention does not keep. Their few bytes of dropout masks stand
for the normalisation layers, which stay in float32.
"""
ROWS = 512
"""Rows of the output head whose logits are held together: `objective.fused.LEAST`."""
KEPT_CHECKPOINTS = 3
"""Two complete ones, and the one being written."""


@dataclass(frozen=True)
class Device:
    """What a machine is assumed to achieve: FLOP/s in float32 and half precision, bytes/s read while decoding, and
    seconds that a layer takes in any pass, however small; `base` bytes of memory before a model is loaded."""

    single: float
    half: float
    bandwidth: float
    layer: float
    base: float


DEVICES = {
    "cpu": Device(single=3e10, half=3e10, bandwidth=5e9, layer=2e-4, base=0.8e9),
    "gpu": Device(single=8e12, half=8e13, bandwidth=1e12, layer=5e-4, base=4e9),
}
"""One core of a laptop; and of an NVIDIA A100 a quarter of its peak in half precision (312 TFLOP/s), 40% in float32.

`base` is memory of the host: Python, torch and transformers; with CUDA's libraries on a GPU.
"""


@dataclass(frozen=True)
class Work:
    """Floating-point operations, passes through all layers, and bytes of weights and caches that decoding reads."""

    flops: float
    passes: float
    read: float = 0.0

    def seconds(self, shape: Shape, device: Device, precision: str) -> float:
        """Whatever of the three takes longest, as in a roofline."""
        rate = device.half if precision in HALF else device.single
        return max(self.flops / rate, self.read / device.bandwidth, self.passes * shape.layers * device.layer)


# --- floating-point operations


def forward_flops(shape: Shape, tokens: float, length: float) -> float:
    """One pass through the blocks: 2 B a token, and 2 L d s for causal attention within `length` = s tokens.

    Kaplan et al. 2020, section 2.1, and Chowdhery et al. 2022, appendix B, with half the attention, as half is masked.
    """
    return tokens * (2 * shape.blocks + 2 * shape.layers * shape.width * length)


def head_flops(shape: Shape, rows: float, products: int) -> float:
    """So many matrix products of the output head, 2 d V a row each."""
    return products * 2 * shape.width * shape.vocabulary * rows


def pair_flops(shape: Shape, prompt: float, response: float, settings: OptimisationConfig, *, reference: bool) -> float:
    """A training step's FLOPs a pair, whose prompt is computed once for its two responses.

    The backbone: 1 pass forward and 2 backward (1 with an adapter, as frozen weights take no gradient), 1 more with
    gradient checkpointing, 1 for the reference unless it is cached. The head: 4 products, the reference's in them
    (`objective.fused`). Mask heads are left out: L d a token.
    """
    passes = 3 - (adapter_of(settings) is not None) + settings.gradient_checkpointing + reference
    one = forward_flops(shape, prompt + 2 * response, prompt + response)
    return passes * one + head_flops(shape, 2 * response, 4)


def text_flops(shape: Shape, tokens: float, settings: OptimisationConfig) -> float:
    """SFT's FLOPs a document of so many tokens, all of which pass the head."""
    passes = 3 - (adapter_of(settings) is not None) + settings.gradient_checkpointing
    return passes * forward_flops(shape, tokens, tokens) + head_flops(shape, tokens, 3)


def sampling(shape: Shape, prompt: float, responses: float, tokens: float, batch: float, stored: float) -> Work:
    """`responses` of `tokens` each: a step of a batch reads all weights (`stored` bytes each) and its cache."""
    steps = tokens * -(-responses // batch)
    computed = responses * (prompt + tokens)
    flops = forward_flops(shape, computed, prompt + tokens) + head_flops(shape, responses * tokens, 1)
    cache = cache_bytes(shape, min(batch, responses), prompt + tokens / 2, stored)
    return Work(flops, steps, steps * (shape.parameters * stored + cache))


# --- memory


def adapter_of(settings: OptimisationConfig) -> AdapterConfig | None:
    return getattr(settings, "adapter", None)


def trained_parameters(shape: Shape, adapter: AdapterConfig | None) -> float:
    """T: all of them, or those of LoRA on every linear map of the blocks, rank (in + out): 16 to 19 rank d a layer."""
    return shape.parameters if adapter is None else 18 * adapter.rank * shape.width * shape.layers


def frozen_bytes(shape: Shape, quantization: str = "none", stored: float = SINGLE) -> float:
    """One copy of the weights; 4 bits are for the blocks only."""
    if quantization == "none":
        return shape.parameters * stored
    return shape.blocks * NF4 + shape.embeddings * stored


def training_bytes(
    shape: Shape, settings: OptimisationConfig, *, tokens: float, logits: float, reference: bool, stored: float = SINGLE
) -> float:
    """Memory of training where the model is: weights, gradients, optimiser, a reference, and what a micro-batch needs.

    `tokens` of a micro-batch; `logits` of it that are held at a time, 12 bytes each: values, softmax and gradient. In
    half precision a copy of the weights is kept from forward to backward. A reference beside an adapter
    is the same weights.
    """
    adapter, half = adapter_of(settings), settings.precision in HALF
    quantization = adapter.quantization if adapter else "none"
    copies = 2 if reference and adapter is None else 1
    cast = 2 * shape.parameters if half and quantization == "none" else 0
    state = trained_parameters(shape, adapter) * (SINGLE + STATE[settings.optimizer] * stored / SINGLE)
    unit = ACTIVATIONS * (1 if half else 2)
    layers = shape.layers * SINGLE + unit if settings.gradient_checkpointing else shape.layers * unit
    return (
        copies * frozen_bytes(shape, quantization, stored) + cast + state + tokens * shape.width * layers + 12 * logits
    )


def cache_bytes(shape: Shape, rows: float, length: float, stored: float) -> float:
    """Keys and values: 2 L d a token, fewer where heads share theirs."""
    return 2 * shape.layers * shape.width * rows * length * stored


def sampling_bytes(shape: Shape, rows: float, length: float, stored: float) -> float:
    """Weights, the cache of a batch, and its logits of one step three times over."""
    return shape.parameters * stored + cache_bytes(shape, rows, length, stored) + 3 * SINGLE * rows * shape.vocabulary


def scoring_bytes(shape: Shape, tokens: float) -> float:
    """Policy and reference side by side, a batch's states in a layer of each, and a chunk of logits of both."""
    return 2 * shape.parameters * SINGLE + 8 * tokens * shape.width * SINGLE + 4 * SINGLE * ROWS * shape.vocabulary


# --- disk


def checkpoint_bytes(shape: Shape, settings: OptimisationConfig, keeps_best: bool) -> float:
    """What lies on disk while a run trains: trained weights and optimiser, and the best weights, some times over."""
    size = trained_parameters(shape, adapter_of(settings)) * (SINGLE * (1 + keeps_best) + STATE[settings.optimizer])
    return KEPT_CHECKPOINTS * size if settings.checkpoint_every else 0.0


def weights_bytes(shape: Shape) -> float:
    """A policy as it is saved: plain float32, an adapter merged."""
    return shape.parameters * SINGLE
