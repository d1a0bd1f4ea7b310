"""The ends of files that somebody still writes: rows of numbers, how far a log is, and why its job ended."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo.runtime.errors import one_line

PART = 2**16  # bytes that are read of either end of a file
_STEP = re.compile(r"^step (\d+)/(\d+) ", re.MULTILINE)
_RESUMED = re.compile(r"^resuming at step (\d+) from ", re.MULTILINE)
_ERROR = re.compile(r"^(?:\S+: )?error: (\S.*)$", re.MULTILINE)
_STOPPED = re.compile(
    r"^(?:snakemake \(process \d+\) has ended, and this job with it|KeyboardInterrupt)$", re.MULTILINE
)
_TRACEBACK = "Traceback (most recent call last):\n"
_LONGEST = 300  # characters of a reason


@dataclass(frozen=True)
class Log:
    """What the log of one attempt of a job tells.

    `error` is the reason that it gives for its end; `stopped`: somebody ended it. `steps`: of a whole training, None
    before its first step; `resumed`: the step that it began at; `last`: its last line.
    """

    error: str = ""
    stopped: bool = False
    steps: int | None = None
    resumed: int = 0
    last: str = ""


def read_log(path: Path) -> Log:
    """The log of a job as far as it is written; an empty one where there is none.

    What a library calls an error in the middle of a training is not its end: the reason is looked for behind the last
    step that is told.
    """
    text = "\n".join(_parts(path))
    steps = list(_STEP.finditer(text))
    rest = text[steps[-1].end() :] if steps else text
    resumed = _RESUMED.findall(text)
    last = text.rstrip().rpartition("\n")[2].strip()
    stopped = _STOPPED.search(rest) is not None
    return Log(
        error="" if stopped else one_line(_error(rest), _LONGEST),
        stopped=stopped,
        steps=int(steps[-1][2]) if steps else None,
        resumed=int(resumed[-1]) if resumed else 0,
        last=one_line(last, _LONGEST),
    )


def _error(text: str) -> str:
    """The sentence of a UserError, else what a stack trace ends with, which starts its message; else nothing."""
    sentences = _ERROR.findall(text)
    if sentences:
        return sentences[-1]
    _, mark, trace = text.rpartition(_TRACEBACK)
    ends = [line for line in trace.splitlines() if line and not line[0].isspace()] if mark else []
    return ends[0] if ends else ""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The last rows of a JSONL file, as many as fit; half a line, at either end of what is read, is no row."""
    rows = []
    for line in _parts(path)[-1].splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows += [row] * isinstance(row, dict)
    return rows


def modified(path: Path) -> float | None:
    """When a file was last written; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _parts(path: Path) -> list[str]:
    """The text of a file, of a long one its beginning and its end; nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            parts = [file.read(PART)]
            behind = os.fstat(file.fileno()).st_size - PART
            if behind > PART:
                file.seek(-PART, os.SEEK_END)
                parts.append(file.read())
            elif behind > 0:
                parts[0] += file.read()
    except OSError:
        return [""]
    return [part.decode(errors="replace") for part in parts]
