"""Content hashes: the identity of what a stage read."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 16 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def identity_of(settings: Any, code: str, inputs: Iterable[str | Path]) -> str:
    """What a checkpoint belongs to: settings, code version and the content of the inputs."""
    parts = [json.dumps(settings, sort_keys=True), code, *(file_hash(path) for path in inputs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
