"""Data inside the page: compressed, one block for each part that a reader may open."""

import base64
import gzip
import json
import math
from collections.abc import Iterable
from typing import Any


def pack(value: Any) -> str:
    """JSON, gzip, base64; the same value gives the same text. Numbers that are not finite become null."""
    text = json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def unpack(text: str) -> Any:
    """The value again.

    >>> unpack(pack({"a": [1, float("nan")]}))
    {'a': [1, None]}
    """
    return json.loads(gzip.decompress(base64.b64decode(text)))


def rounded(value: float) -> float | None:
    """Four significant digits, which is more than a reader compares; None for a number that is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def all_rounded(values: Iterable[float]) -> list[float | None]:
    return [rounded(value) for value in values]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
