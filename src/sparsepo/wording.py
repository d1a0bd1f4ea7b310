"""How what a user gave stands in a sentence: on one line, printable and short."""

import json
from typing import Any


def one_line(text: str, most: int = 600) -> str:
    """A text as it may stand in a sentence: printable, on one line, its middle left out beyond `most` characters."""
    head, tail = most - most // 3 - 5, most // 3
    short = text if len(text) <= most else f"{text[:head]} ... {text[-tail:]}"
    line = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in short)
    return line if len(line) <= most else f"{line[:head]} ... {line[-tail:]}"


def shown(value: Any, most: int = 60) -> str:
    """A value that was given, as JSON that may stand in a sentence, cut behind `most` characters."""
    try:
        text = json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} too large to show"
    line = one_line(text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."
