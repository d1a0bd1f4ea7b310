"""Results of a long stage, kept in a file one by one: after a kill only those that are missing are computed."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import Any

from sparsepo.runtime.errors import add_path_to_disk_error
from sparsepo.runtime.files import file_hash


class ResultCache(dict[str, Any]):
    """Results, as JSON, by the key of their request; each is one line of a JSONL file. Threads may share a cache.

    A line that is cut, as after a kill, is ignored, and that request is computed again. `identity` is what results
    depend on beside their request (see `job_identity`); those of another identity are ignored.
    """

    def __init__(self, path: Path, identity: str = ""):
        self.path, self.identity, self._lock = path, identity, Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
        entries = filter(None, map(_entry, lines))
        super().__init__((key, result) for key, result in entries if key.startswith(identity))
        if lines[-1]:
            self._append("\n")  # ends a line that was cut

    def __setitem__(self, key: str, result: Any) -> None:
        with self._lock:
            self._append(json.dumps({"key": key, "answer": result}) + "\n")
            super().__setitem__(key, result)

    def delete(self) -> None:
        """Delete the file, when the stage has written all results to its outputs."""
        self.path.unlink(missing_ok=True)

    def _append(self, text: str) -> None:
        with add_path_to_disk_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def open_cache(path: Path, identity: str) -> ResultCache:
    """The cache of a stage with this identity; prints how many results are there already."""
    cache = ResultCache(path, identity)
    if len(cache):
        print(f"resuming with {len(cache):,} results of {path}", flush=True)
    return cache


def get_or_compute(cache: ResultCache | None, request: Any, compute: Callable[[], Any]) -> Any:
    """The result of a request, computed only if it is not in the cache; of no cache, computed."""
    if cache is None:
        return compute()
    key = request_key(request, cache.identity)
    if key not in cache:
        cache[key] = compute()
    return cache[key]


def _entry(line: str) -> tuple[str, Any] | None:
    """Key and result of a line of the file; None of one that is cut."""
    try:
        row = json.loads(line)
        key, result = row["key"], row["answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (key, result) if isinstance(key, str) else None


def request_key(request: Any, identity: str = "") -> str:
    """`identity`, then the SHA-256 of the request as canonical JSON."""
    return identity + hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def job_identity(settings: Any, code: str, inputs: Iterable[str | Path]) -> str:
    """What the results of a job depend on, as a hash: settings, version of the code, number of threads, input files."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    parts = [json.dumps(settings, sort_keys=True), code, threads, *(file_hash(path) for path in inputs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
