"""How a token is drawn and where a response ends: random numbers of each response, top-p, stop strings."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsepo.runtime.errors import UserError

DrawTokens = Callable[[Tensor, Tensor, int], Tensor]
"""(logits (b v), rows of the batch (b), step) -> tokens (b)."""

IsComplete = Callable[[list[int]], bool]
"""The tokens of a response so far -> whether it ends with the last of them."""


def response_seed(seed: int, prompt_ids: Sequence[int], number: int) -> int:
    """63 bits from the seed of the config, the ids of the prompt, and the number of earlier samples of this prompt."""
    digest = hashlib.sha256(repr((seed, list(prompt_ids), number)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def response_uniforms(seed: int, prompt_ids: Sequence[int], number: int, count: int) -> Tensor:
    """`count` float64 numbers in [0, 1) of one response; see `response_seed`."""
    generator = torch.Generator().manual_seed(response_seed(seed, prompt_ids, number))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def token_drawer(uniforms: Tensor, temperature: float, top_p: float) -> DrawTokens:
    """Draws the tokens of a batch: row r takes the number `uniforms[r, step]`, (b t)."""
    return lambda logits, rows, step: draw_tokens(logits, uniforms[rows, step], temperature, top_p)


def draw_tokens(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token of each row: the first whose cumulative probability exceeds `uniform`, a float64 number of each row.

    (b v), (b) -> (b). The same number gives the same token whatever the other rows are. top_p keeps the fewest, most
    likely tokens whose probabilities reach this sum. Cumulative sums are float64, so that a rare token keeps its
    probability in a vocabulary of 49,152; as `uniform` < 1, the search never passes the end. Raises UserError for
    logits that are not finite.
    """
    probabilities, order = (logits.float() / temperature).softmax(-1), None
    if probabilities.device.type == "mps":  # has no float64
        probabilities = probabilities.cpu()
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        raise UserError("the model's logits are not finite, so nothing can be sampled from it; its training diverged")
    if order is not None:
        total = cumulative.gather(1, (cumulative < top_p * total).sum(-1, keepdim=True))
    index = torch.searchsorted(cumulative, uniform.to(total.device)[:, None] * total, right=True)
    return (index if order is None else order.gather(1, index))[:, 0].to(logits.device)


def stop_criterion(tokenizer: Any, end_ids: Collection[int], stops: Sequence[str]) -> IsComplete:
    """Whether tokens end with one of `end_ids` or their text contains one of `stops`.

    It is called after every token, so only the last tokens are decoded: a stop of n bytes has at most n of them, and
    one more keeps the space that some decoders drop at the start. A match there is checked in the whole text.
    """
    reach = 1 + max((len(stop.encode()) for stop in stops), default=0)

    def has_stop(tokens: list[int]) -> bool:
        return cut_at_stop(tokenizer.decode(tokens, skip_special_tokens=True), stops) is not None

    def is_complete(tokens: list[int]) -> bool:
        return tokens[-1] in end_ids or bool(stops and has_stop(tokens[-reach:]) and has_stop(tokens))

    return is_complete


def cut_at_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first of `stops` in it; None where there is none.

    >>> cut_at_stop("return x\\n# so\\nprint(x)", ("\\nprint", "\\n#"))
    'return x'
    """
    starts = [start for start in map(text.find, stops) if start >= 0]
    return text[: min(starts)] if starts else None
