"""One kernel of an accelerator in place of a dozen elementwise passes, where a compiler is at hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Compiled:
    """`function` as it is on a CPU, compiled by `torch.compile` when the first tensor is on a GPU: the same numbers.

    Its tensors may have any number of rows without being compiled again. Where compiling fails (Triton needs a C
    compiler, which some nodes lack) a line says why, and the function runs as it is. It may change the first tensor in
    place, as compiling runs nothing. `TORCH_COMPILE_DISABLE=1`, torch's own switch, turns it off.
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
            print(f"{self.function.__name__} is not compiled, which takes more time and memory: {reason}", flush=True)
            self.run = self.function
            return self.function(first, *others)
