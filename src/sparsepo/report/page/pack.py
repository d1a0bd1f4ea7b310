"""Data inside the page: compressed, one block for each thing that a reader may ask for, opened when asked."""

import base64
import gzip
import json
from typing import Any


def packed(value: Any) -> str:
    """JSON, gzip, base64; the same value gives the same text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def unpacked(text: str) -> Any:
    """The value again.

    >>> unpacked(packed({"a": [1, None]}))
    {'a': [1, None]}
    """
    return json.loads(gzip.decompress(base64.b64decode(text)))


def short(values: list[float]) -> list[float]:
    """Four significant digits, which is more than a reader compares."""
    return [float(f"{value:.4g}") for value in values]
