"""Where a response ends: at the end token, or where its text first holds a stop string."""

from collections.abc import Sequence
from typing import Any

from sparsepo.sampling.decoding import Ending


def ending(tokenizer: Any, stops: Sequence[str]) -> Ending:
    """Whether tokens end with the end token or their text holds one of `stops`.

    Asked after every token, so only the last tokens are decoded: a stop of n bytes spans at most n of them, and one
    more keeps the space that some decoders drop at the start. What looks like a stop there is looked for in the whole.
    """
    end, reach = tokenizer.eos_token_id, 1 + max((len(stop.encode()) for stop in stops), default=0)

    def holds(tokens: list[int]) -> bool:
        return cut(tokenizer.decode(tokens, skip_special_tokens=True), stops) is not None

    def over(tokens: list[int]) -> bool:
        return tokens[-1] == end or bool(stops and holds(tokens[-reach:]) and holds(tokens))

    return over


def cut(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first of `stops` in it; None where there is none.

    >>> cut("return x\\n# so\\nprint(x)", ("\\nprint", "\\n#"))
    'return x'
    """
    places = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(places)] if places else None
