"""Answers of a paid endpoint, kept in a file as they come: asking again costs nothing."""

import hashlib
import json
from pathlib import Path
from threading import Lock
from typing import Any


def request_key(body: dict[str, Any]) -> str:
    """SHA-256 of a request's body in canonical JSON: the same question, whatever address it is sent to."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """Answers by the key of their request, appended to a JSONL file one line each; threads may share one.

    What is not a whole line of the file, as after a kill, is passed over: that request is asked again.
    """

    def __init__(self, path: Path):
        self.path, self._lock, self._answers = path, Lock(), {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
        self._answers = dict(filter(None, map(_entry, lines)))
        if lines[-1]:
            self._append("\n")  # ends a line that was cut

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> str:
        return self._answers[key]

    def __setitem__(self, key: str, answer: str) -> None:
        with self._lock:
            self._append(json.dumps({"key": key, "answer": answer}) + "\n")
            self._answers[key] = answer

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def _entry(line: str) -> tuple[str, str] | None:
    try:
        row = json.loads(line)
        key, answer = row["key"], row["answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (key, answer) if isinstance(key, str) and isinstance(answer, str) else None
