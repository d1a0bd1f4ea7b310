"""Data inside the page: compressed, one block for each part that a reader may open."""

import base64
import gzip
import json
import math
from collections.abc import Callable
from typing import Any


def pack(value: Any) -> str:
    """JSON, gzip, base64; the same value gives the same text. Numbers that are not finite become null."""
    text = json.dumps(_with_numbers(value, float), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def rounded(value: Any) -> Any:
    """The value with four significant digits in each number, more than a reader compares; None for nan and infinity."""
    return _with_numbers(value, lambda number: float(f"{number:.4g}"))


def _with_numbers(value: Any, change: Callable[[float], float]) -> Any:
    """The value with `change` made to each finite float in it, and None in place of the others."""
    if isinstance(value, dict):
        return {name: _with_numbers(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_numbers(item, change) for item in value]
    if isinstance(value, float):
        return change(value) if math.isfinite(value) else None
    return value
