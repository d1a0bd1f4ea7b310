"""Compilation of elementwise functions on a GPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Compiled:
    """`function`, compiled by `torch.compile` when its first tensor is on a GPU; the same numbers either way.

    Tensors may have any number of rows without a new compilation. Where compilation fails (Triton needs a C compiler)
    one line is printed, and the function runs uncompiled. The function may change its first tensor in place.
    `TORCH_COMPILE_DISABLE=1`, torch's own switch, turns compilation off.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.run: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__

    def __call__(self, first: Tensor, *others: Any) -> Any:
        if not first.is_cuda or self.run is self.function:
            return self.function(first, *others)
        if self.run is None:
            self.run = torch.compile(self.function)
        for tensor in filter(torch.is_tensor, (first, *others)):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            return self.run(first, *others)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            print(f"{self.function.__name__} runs uncompiled, with more time and memory: {reason}", flush=True)
            self.run = self.function
            return self.function(first, *others)
