"""What a long stage has done, kept in a file as it comes: after a kill only what is missing is done."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import Any

from sparsepo.runtime.errors import naming


def key_of(request: Any, identity: str = "") -> str:
    """`identity`, then SHA-256 of a request in canonical JSON: the same question, however it is laid out."""
    return identity + hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class ResultCache:
    """Answers, as JSON, by the key of their request, appended to a JSONL file one line each; threads may share one.

    What is not a whole line of the file, as after a kill, is passed over: that request is made again. `identity` says
    what answers depend on beside their request (see `data.hashes.identity_of`); those of another one are passed over.
    """

    def __init__(self, path: Path, identity: str = ""):
        self.path, self.identity, self._lock = path, identity, Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
        found = filter(None, map(_entry, lines))
        self._answers = {key: answer for key, answer in found if key.startswith(identity)}
        if lines[-1]:
            self._append("\n")  # ends a line that was cut

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def __setitem__(self, key: str, answer: Any) -> None:
        with self._lock:
            self._append(json.dumps({"key": key, "answer": answer}) + "\n")
            self._answers[key] = answer

    def get_or_compute(self, request: Any, make: Callable[[], Any]) -> Any:
        """The answer to a request, made only if it is not there yet."""
        key = key_of(request, self.identity)
        if key not in self:
            self[key] = make()
        return self[key]

    def done(self) -> None:
        """Delete the file: all answers are where they belong."""
        self.path.unlink(missing_ok=True)

    def _append(self, text: str) -> None:
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def open_cache(path: Path, identity: str) -> ResultCache:
    """What is kept in `path` of a stage with this identity; says so where there is something."""
    kept = ResultCache(path, identity)
    if len(kept):
        print(f"going on with what is kept in {path}: {len(kept):,} parts", flush=True)
    return kept


def get_or_compute(kept: ResultCache | None, request: Any, make: Callable[[], Any]) -> Any:
    """`kept.once`, or where nothing is kept what `make` returns."""
    return make() if kept is None else kept.get_or_compute(request, make)


def _entry(line: str) -> tuple[str, Any] | None:
    try:
        row = json.loads(line)
        key, answer = row["key"], row["answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (key, answer) if isinstance(key, str) else None


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
