"""What a token heatmap shows and where: choice of examples, how tokens are printed, line breaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Example = Mapping[str, Any]

MAX_TOKENS = 40  # of a response that a figure shows
FONT_SIZE = 6.5  # points
_MAX_LETTERS = 16
_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "</s>")  # printed alike
_PADDING, _MIN_WIDTH, _WORD_GAP = 4.0, 9.0, 2.0  # points: beside the text of a cell, of a cell, between words
# Widths in Liberation Sans, which has those of Arial, in thousandths of the font size.
_NARROW, _WIDE = dict.fromkeys("fijlrtI.,:;'|!()[]/\\-` ", 320), dict.fromkeys("mwMW@%", 880)
_WIDTHS = dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&<>+=~", 680) | _NARROW | _WIDE


@dataclass(frozen=True)
class TokenCell:
    """One token on its line: `left` and `width` in points, `index` in the response."""

    index: int
    text: str
    left: float
    width: float


def choose_examples(examples: Sequence[Example], limit: int = 3) -> list[Example]:
    """The first pairs of which no response is cut; if there is none, the first pairs."""
    whole = [
        example
        for example in examples
        if max(len(example[side]["tokens"]) for side in ("chosen", "rejected")) <= MAX_TOKENS
    ]
    return list((whole or examples)[:limit])


def printed_token(token: str) -> str:
    """The token with white space made visible and a long text cut."""
    text = "<eos>" if token in _END_TOKENS else printable(token.strip())
    if not text:
        return "¶" if "\n" in token else "·"
    return text if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 1] + "…"


def printable(text: str) -> str:
    """The text with a box for each control character."""
    return "".join(letter if letter.isprintable() else "□" for letter in text)


def lay_out(tokens: Sequence[str], width: float) -> list[list[TokenCell]]:
    """Break tokens into lines of `width` points; pieces of a word touch, words stand apart."""
    lines: list[list[TokenCell]] = [[]]
    right = 0.0
    for index, token in enumerate(tokens):
        text = printed_token(token)
        cell_width = max(text_width(text) + _PADDING, _MIN_WIDTH)
        begins_word = token[:1].isspace() or token in _END_TOKENS
        left = right + (_WORD_GAP if lines[-1] and begins_word else 0.0)
        if lines[-1] and left + cell_width > width:
            lines.append([])
            left = 0.0
        lines[-1].append(TokenCell(index, text, left, cell_width))
        right = left + cell_width
    return lines


def text_width(text: str) -> float:
    """Points that `text` takes in the heatmap's font, about; letters of Asian scripts are squares."""
    return FONT_SIZE / 1000 * sum(_WIDTHS.get(letter, 560 if ord(letter) < 0x1100 else 1000) for letter in text)
