"""The parts of a causal LM of any architecture: its hidden states, its output head and its blocks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepo.data.batches import ModelInputs
from sparsepo.models.limits import text_config, vocabulary_size
from sparsepo.models.segment_attention import attention_argument, exclude_attention_from_compilation
from sparsepo.objective.lm_head import LMHead
from sparsepo.runtime.errors import UserError

LARGE_LOGIT = 100.0
"""Above any logit cap in use (15 to 50)."""
LayerCallback = Callable[[int, int, Tensor], None]
"""Called with (layer, number of layers, states (rows, T, d)), layers from 0, the last one after the final norm."""


def backbone(model: Any) -> nn.Module:
    """The model without its output head: ids -> last hidden states (after the final norm).

    Raises UserError for a PeftModel, which hides it.
    """
    if hasattr(model, "get_base_model"):
        raise UserError(f"{type(model).__name__}: pass a plain model, as model.merge_and_unload() returns")
    if model.base_model is not model:
        return model.base_model
    decoder = model.get_decoder()
    return model.model if decoder is model else decoder  # Llama 4 names neither


def hidden_states(model: Any, inputs: ModelInputs, on_layer: LayerCallback | None = None) -> Tensor:
    """Last hidden states (rows, T, d), after the final norm; `on_layer`: see `run_backbone`."""
    return run_backbone(model, inputs, on_layer).last_hidden_state


def run_backbone(
    model: Any, inputs: ModelInputs, on_layer: LayerCallback | None = None, *, recompute_attention: bool = False
) -> Any:
    """The outputs of the model without its head: `last_hidden_state` (rows, T, d), after the final norm, and others.

    `on_layer` is called with the states of every layer as they are computed; nothing else keeps them.
    `recompute_attention`: in the backward pass, instead of keeping it; of inputs with segments only. Position ids are
    explicit, so that padding never moves a token.
    """
    with _layer_hooks(model, on_layer):
        return backbone(model)(
            input_ids=inputs.input_ids,
            attention_mask=attention_argument(model, inputs, recompute_attention),
            position_ids=inputs.position_ids,
            use_cache=False,
            return_dict=True,
        )


def add_router_loss(total: Tensor, count: int, model: Any, outputs: Any, inputs: ModelInputs) -> Tensor:
    """`total`, a sum over `count` losses, with `count` times the router loss of a mixture of experts.

    coefficient * E * sum_e f_e P_e over E experts: f_e is how often e is among the chosen experts of a token, P_e its
    mean probability, over the tokens of all sequences and all layers. That is the `load_balancing_loss_func` of the
    architecture (Fedus et al. 2021, Eq. 4-6), on what `run_backbone` returned. Added only where the model's config has
    `output_router_logits`, as transformers does. Raises UserError for an architecture without one.
    """
    config = text_config(model)
    if not getattr(config, "output_router_logits", False):
        return total
    balance = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    if balance is None:
        raise UserError(
            f"{type(model).__name__} has no router loss in transformers: set config.output_router_logits = False"
        )
    sizes = {"num_experts": model.num_experts, "top_k": model.num_experts_per_tok}
    loss = balance(gate_logits=outputs.router_logits, **sizes, attention_mask=inputs.num_sequences)
    return total + count * config.router_aux_loss_coef * loss


@contextmanager
def without_router_loss(model: Any) -> Iterator[None]:
    """While open, the model's own forward pass computes no router loss, which fails where keys are cached."""
    config = text_config(model)
    asked = getattr(config, "output_router_logits", False)
    if asked:
        config.output_router_logits = False
    try:
        yield
    finally:
        if asked:
            config.output_router_logits = asked


@contextmanager
def _layer_hooks(model: Any, on_layer: LayerCallback | None) -> Iterator[None]:
    """While open, each forward pass calls `on_layer`; the last states are those of the whole backbone."""
    handles = []
    if on_layer is not None:
        blocks = decoder_layers(model)
        depth, width = len(blocks), text_config(model).hidden_size

        def call(layer: int, states: Tensor) -> None:
            if states.dim() != 3 or states.shape[-1] != width:
                raise UserError(
                    f"{type(model).__name__}: the output of layer {layer} of {depth} is {tuple(states.shape)}, not one "
                    f"state of width {width} a token, which learned masks need; use another `mask`"
                )
            on_layer(layer, depth, states)

        for layer, block in enumerate(blocks[:-1]):
            handles.append(block.register_forward_hook(lambda _, __, out, at=layer: call(at, first_output(out))))
        last = backbone(model).register_forward_hook(lambda _, __, out: call(depth - 1, out.last_hidden_state))
        handles.append(last)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_output(out: Any) -> Tensor:
    """The output of a module that returns a tensor, or a tuple that begins with it."""
    return out[0] if isinstance(out, tuple | list) else out


def lm_head(model: Any) -> LMHead:
    """The output head with all that the architecture does to its logits; see `check_lm_head`."""
    output, config = model.get_output_embeddings(), text_config(model)

    def number(*names: str) -> float | None:
        values = (getattr(config, name, None) for name in names)
        return next((value for value in values if isinstance(value, int | float)), None)

    scale = number("logit_scale", "lm_head_multiplier") or 1.0  # Cohere and Falcon-H1 multiply
    scale = scale / (number("logits_scaling") or 1.0)  # Granite divides
    cap = number("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM
    return LMHead(output.weight, output.bias, scale, cap)


@torch.no_grad()
def check_lm_head(model: Any) -> None:
    """Raises UserError, naming the architecture, when log-probs of a padded batch would not be the model's own.

    That is where `lm_head` gives other logits, also for states so large that a cap would show; and where most tokens
    depend on later ones, or on padding after their sequence.
    """
    name, device = type(model).__name__, model.get_output_embeddings().weight.device
    ids = torch.arange(4, device=device)[None] % vocabulary_size(model)
    head, states = lm_head(model), hidden_states(model, _padded_inputs(ids))
    logits = _model_logits(model, ids)
    if states.shape[-1] != head.weight.shape[-1] or not _are_close(head.logits(states), logits):
        raise UserError(f"{name} changes its logits in an unknown way, so its log-probs would be wrong")
    factor = LARGE_LOGIT / float(logits.where(logits.isfinite(), 0.0).abs().max().clamp_min(1e-6))
    large = _model_logits(model, ids, factor)
    if large is not None and not _are_close(head.logits(states * factor), large):
        raise UserError(f"{name} changes large logits in an unknown way, so its log-probs would be wrong")
    prefixes = [hidden_states(model, _padded_inputs(ids[:, :size]))[:, -1] for size in (1, 2, 3)]
    if not _are_mostly_close(torch.stack(prefixes, 1), states[:, :3]):
        raise UserError(f"{name} is no causal LM: its output at a token depends on later tokens")
    if not _are_mostly_close(hidden_states(model, _padded_inputs(ids, padding=4))[:, :4], states):
        raise UserError(f"{name} reads padding: its output at a token depends on padding after the sequence")


def _padded_inputs(ids: Tensor, padding: int = 0) -> ModelInputs:
    """Of one sequence, with some padding after it."""
    return ModelInputs.with_padding(F.pad(ids, (0, padding)), F.pad(torch.ones_like(ids), (0, padding)))


def _are_mostly_close(states: Tensor, expected: Tensor) -> bool:
    """Whether most of the states (1, t, d) are: rounding may send a few tokens to other experts."""
    same = [_are_close(states[:, at], expected[:, at], 0.05) for at in range(states.shape[1])]
    return 2 * sum(same) > len(same)


def _model_logits(model: Any, ids: Tensor, factor: float = 1.0) -> Tensor | None:
    """The model's own logits, with the input of its output map times `factor`; None if it has no such module."""
    calls: list[bool] = []

    def enlarge(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        calls.append(True)
        return args[0] * factor, *args[1:]

    handle = model.get_output_embeddings().register_forward_pre_hook(enlarge)
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()
    finally:
        handle.remove()
    return logits if calls or factor == 1 else None


def _are_close(values: Tensor, expected: Tensor, share_of_largest: float = 1e-3) -> bool:
    """Up to rounding in bfloat16; infinite values must be the same."""
    largest = float(expected.where(expected.isfinite(), 0.0).abs().max())
    return torch.allclose(values.float(), expected.float(), atol=share_of_largest * max(1.0, largest), rtol=1e-2)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The stack of blocks, whatever the architecture calls it: the list as long as the config says.

    Not that of an image encoder, which may have the same length. Raises UserError where there is none.
    """
    depth, decoder = text_config(model).num_hidden_layers, model.get_decoder()
    modules = (backbone(model) if decoder is model else decoder).modules()
    stacks = [m for m in modules if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not stacks:
        raise UserError(f"{type(model).__name__} has no list of {depth} blocks to read activations from")
    return stacks[0]


def checkpoint_blocks(model: Any) -> None:
    """Recompute each block in the backward pass instead of keeping it. Raises UserError for models that cannot."""
    try:
        model.activation_checkpointing_enable()
    except ValueError as error:
        raise UserError(f"gradient_checkpointing: {error}") from None


def compile_blocks(model: Any) -> None:
    """Compile the forward pass of each block, once for all blocks and for batches of any size, but not attention.

    Hooks on blocks stay outside of the compiled code; adapters' weights are inputs of it like all others.
    """
    exclude_attention_from_compilation()
    for block in decoder_layers(model):
        block.forward = torch.compile(block.forward, dynamic=True)
