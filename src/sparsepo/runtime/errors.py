"""The exception for mistakes of the user, and how values are shown in its messages."""

import difflib
import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(Exception):
    """A mistake in the user's config, files or machine: what is wrong, where, and what is allowed, on one line.

    Commands print it and exit with code 1, without a stack trace.
    """


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of an error message that refuses `name`: all that is allowed, and the nearest of it."""
    allowed = list(allowed)
    close = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"allowed: {', '.join(allowed)}{hint}"


def is_disk_full(error: Exception) -> bool:
    """Whether an error says that a disk or a quota is full; libraries written in Rust say it in their message only."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return True
    return any(os.strerror(number) in str(error) for number in DISK_FULL)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of a GPU is full."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def missing_reason(path: str | os.PathLike, kind: str) -> str:
    """Why a path is no file or folder (`kind`): that it may not be read, that there is none, or that it is another."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return "permission denied"
    except (OSError, ValueError):
        return f"no such {kind}"
    is_other = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return f"not a {kind}" if is_other else f"not a {kind} but a pipe, socket or device"


@contextmanager
def add_path_to_disk_error(path: os.PathLike) -> Iterator[None]:
    """Raise an error about a full disk within as an OSError with this path, which a failed write does not name."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def one_line(text: str, most: int = 600) -> str:
    """A text as one printable line for a message; beyond `most` characters its middle is left out."""
    head, tail = most - most // 3 - 5, most // 3
    short = text if len(text) <= most else f"{text[:head]} ... {text[-tail:]}"
    line = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in short)
    return line if len(line) <= most else f"{line[:head]} ... {line[-tail:]}"


def format_value(value: Any, most: int = 60) -> str:
    """A value of the user as JSON on one line for a message, cut after `most` characters."""
    try:
        text = json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} too large to show"
    line = one_line(text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."
