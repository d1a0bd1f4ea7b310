"""What reaches and leaves the attention function of each block: queries, keys, values and merged heads."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from sparsepo.models.limits import text_config

Add = Callable[[str, Tensor], None]
"""Called with the name of an activation and its mean over heads and features, (rows, T)."""
OWN_FUNCTION = "_attn"
"""What architectures that do not use transformers' attention interface call their attention function (GPT-J)."""


@contextmanager
def record_attention(model: Any, parts: Sequence[nn.Module], add: Add) -> Iterator[None]:
    """While open, `add` gets `query`, `key`, `value`, `merged heads` of each attention part, in the order of calls.

    Of a model with rotary embeddings also `rotated query` and `rotated key`. What reaches the attention function is
    rotated; to see it before, the part is called again with all tokens at position 0, up to that function. A layer
    that rotates nothing has no rotated ones. Of a part that calls neither transformers' attention interface nor a
    function of its own with `query`, `key`, `value` (GPT-J), nothing is recorded.
    """
    calls = _AttentionCalls(add, is_rotary(model))
    hooks = [part.register_forward_pre_hook(calls.enter) for part in parts]
    hooks += [part.register_forward_hook(calls.leave, with_kwargs=True) for part in parts]
    own = [module for part in parts for module in part.modules() if _has_own_function(module)]
    get_interface = AttentionInterface.get_interface

    def get_recorded(interface: AttentionInterface, name: str, default: Callable) -> Callable:
        function = get_interface(interface, name, default)
        return lambda module, *args, **kwargs: calls.attend(partial(function, module), (2, 3), *args, **kwargs)

    AttentionInterface.get_interface = get_recorded
    for module in own:
        setattr(module, OWN_FUNCTION, partial(calls.attend, getattr(module, OWN_FUNCTION), (1, 3)))
    try:
        yield
    finally:
        AttentionInterface.get_interface = get_interface
        for module in own:
            delattr(module, OWN_FUNCTION)
        for hook in hooks:
            hook.remove()


def is_rotary(model: Any) -> bool:
    """Whether a model has rotary position embeddings."""
    has_module = any("rotary" in type(module).__name__.lower() for module in model.modules())
    return has_module or hasattr(text_config(model), "rotary_dim")  # GPT-J has a table instead


def mean(value: Tensor, dims: int | tuple[int, ...] = -1) -> Tensor:
    """The mean over some dimensions, in float32 or float64, without gradient."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32)).mean(dims)


class _Replayed(Exception):
    """The second call of an attention part has reached its attention function."""


class _AttentionCalls:
    """Between the hooks before and after an attention part, what its attention function is called with."""

    def __init__(self, add: Add, is_rotary: bool):
        self.add, self.is_rotary = add, is_rotary
        self.is_inside = self.is_replaying = False
        self.query_and_key: tuple[Tensor, Tensor] | None = None

    def enter(self, *_: Any) -> None:
        self.is_inside, self.query_and_key = True, None

    def attend(
        self,
        function: Callable,
        heads_and_features: tuple[int, int],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """query, key, value: (rows, heads, T, features); of the output these are the dimensions besides (rows, T)."""
        if not self.is_inside:
            return function(query, key, value, *args, **kwargs)
        self.query_and_key = mean(query, (1, 3)), mean(key, (1, 3))
        if self.is_replaying:
            raise _Replayed
        output = function(query, key, value, *args, **kwargs)
        self.add("value", mean(value, (1, 3)))
        self.add("merged heads", mean(output[0], heads_and_features))
        return output

    def leave(self, part: nn.Module, args: Any, kwargs: Mapping[str, Any], _: Any) -> None:
        rotated = self.query_and_key
        if rotated is not None:
            plain = self._replay(part, args, kwargs) if self.is_rotary else rotated
            for name, before, after in zip(("query", "key"), plain or (None, None), rotated, strict=True):
                if before is not None:
                    self.add(name, before)
                if before is None or not torch.equal(before, after):
                    self.add(f"rotated {name}", after)
        self.is_inside = False

    def _replay(self, part: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Query and key without rotation; None for a part that is told no positions."""
        unrotated = _at_position_zero(kwargs)
        if not unrotated:
            return None
        self.is_replaying, self.query_and_key = True, None
        try:
            part.forward(*args, **{**kwargs, **unrotated})
        except _Replayed:
            pass
        finally:
            self.is_replaying = False
        return self.query_and_key


def _has_own_function(module: nn.Module) -> bool:
    function = getattr(module, OWN_FUNCTION, None)
    return callable(function) and {"query", "key", "value"} <= set(inspect.signature(function).parameters)


def _at_position_zero(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments that tell the positions, such that nothing is rotated."""
    changed: dict[str, Any] = {}
    if isinstance(position_ids := kwargs.get("position_ids"), Tensor):
        changed["position_ids"] = torch.zeros_like(position_ids)
    embeddings = kwargs.get("position_embeddings")
    if isinstance(embeddings, Tensor):  # complex numbers of size 1
        changed["position_embeddings"] = torch.ones_like(embeddings)
    elif embeddings is not None:
        cos, sin = embeddings
        changed["position_embeddings"] = torch.ones_like(cos), torch.zeros_like(sin)
    return changed
