"""Data inside the page: compressed, one block for each thing that a reader may ask for, opened when asked."""

import base64
import gzip
import json
import math
from collections.abc import Iterable
from typing import Any


def packed(value: Any) -> str:
    """JSON, gzip, base64; the same value gives the same text. What is no finite number becomes null."""
    text = json.dumps(finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def finite(value: Any) -> Any:
    """The value with None for nan and infinities, which JSON does not know.

    >>> finite({"a": [1.5, float("inf")]})
    {'a': [1.5, None]}
    """
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unpacked(text: str) -> Any:
    """The value again.

    >>> unpacked(packed({"a": [1, None]}))
    {'a': [1, None]}
    """
    return json.loads(gzip.decompress(base64.b64decode(text)))


def rounded(value: float) -> float | None:
    """Four significant digits, which is more than a reader compares; None for what is no finite number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def short(values: Iterable[float]) -> list[float | None]:
    """Each value `rounded`."""
    return [rounded(value) for value in values]
