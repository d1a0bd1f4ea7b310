"""What a heatmap shows and where: choice of examples, how tokens are written, line breaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

Example = Mapping[str, Any]

LONGEST = 40  # tokens of a response that a figure shows
FONT_SIZE = 6.5  # points
_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "</s>")  # wide names for one thing
_FONT = FontProperties(family="DejaVu Sans", size=FONT_SIZE)
_PADDING = 0.05  # inches of a cell beside its text
_NARROWEST = 0.12  # inches, so that a comma's colour can be seen
_WORD_GAP = 0.03  # inches before a token that begins a word


@dataclass(frozen=True)
class Cell:
    """One token on its line: `left` and `width` in inches, `index` in the response."""

    index: int
    text: str
    left: float
    width: float


def choose_examples(examples: Sequence[Example], limit: int = 3) -> list[Example]:
    """The first pairs that fit whole; if none does, the first ones (their responses are cut)."""
    whole = [
        example
        for example in examples
        if max(len(example[side]["tokens"]) for side in ("chosen", "rejected")) <= LONGEST
    ]
    return list((whole or examples)[:limit])


def written(token: str) -> str:
    """The token as it is printed: mere white space made visible, a long token cut."""
    text = "<eos>" if token in _END_TOKENS else printable(token.strip())
    if not text:
        return "↵" if "\n" in token else "␣"
    return text if len(text) <= 16 else text[:15] + "…"


def printable(text: str) -> str:
    """The text with a box for each letter that the figures' font lacks (an emoji, say)."""
    return "".join(letter if ord(letter) in _letters() else "□" for letter in text)


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())


def lay_out(tokens: Sequence[str], width: float) -> list[list[Cell]]:
    """Break tokens into lines of `width` inches; pieces of a word touch, words stand apart."""
    lines: list[list[Cell]] = [[]]
    right = 0.0
    for index, token in enumerate(tokens):
        text = written(token)
        cell_width = max(text_width(text) + _PADDING, _NARROWEST)
        left = right + (_WORD_GAP if lines[-1] and _begins_word(token) else 0.0)
        if lines[-1] and left + cell_width > width:
            lines.append([])
            left = 0.0
        lines[-1].append(Cell(index, text, left, cell_width))
        right = left + cell_width
    return lines


def _begins_word(token: str) -> bool:
    return token[:1].isspace() or token in _END_TOKENS


def text_width(text: str) -> float:
    """Inches that `text` takes in the heatmap's font."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, _FONT, ismath=False)
    return width / 72
