"""The one exception that is meant for a person, and how a command ends on it."""

import difflib
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any, NoReturn

SECONDS = 1.0  # between two looks


def exit_with_parent(pid: int, name: str) -> None:
    """End this process, as if it were killed, within a second or two of the process `pid`, which is called `name`."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        Thread(target=_wait, args=(psutil.Process(pid), name), daemon=True).start()


def _wait(process, name: str) -> None:
    while _is_alive(process):
        time.sleep(SECONDS)
    with suppress(OSError):
        print(f"{name} (process {process.pid}) has ended, and this job with it", file=sys.stderr, flush=True)
    os._exit(1)


def _is_alive(process) -> bool:
    """Whether it runs; a zombie does not, nor does another process of the same number."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
PATIENCE = 20  # seconds that another process than the first of several waits with its sentence
SNAKEMAKE = "SPARSEPO_SNAKEMAKE"  # the number of the process that waits for this one


class UserError(Exception):
    """A mistake in the user's config, files or machine, told in one sentence: what, where, what is allowed.

    Command-line entry points print the sentence and exit with code 1; nobody sees a stack trace.
    """


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of a sentence that refuses `name`: what is allowed, and the nearest of it."""
    allowed = list(allowed)
    close = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"allowed: {', '.join(allowed)}{hint}"


def run(main: Callable[[], None]) -> None:
    """Call `main`; a UserError or a full disk becomes one line on stderr and exit code 1.

    Where stderr is a log on that full disk, the line goes to Snakemake's own output. A job ends with its Snakemake.
    Of several processes (see `sparsepo.runtime.launch`) the first alone speaks; each ends with the launcher.
    """
    if is_launched():
        exit_with_parent(os.getppid(), "the launcher")
    if not is_first():
        sys.stdout = open(os.devnull, "w")
    if os.environ.get(SNAKEMAKE, "").isdecimal():
        exit_with_parent(int(os.environ[SNAKEMAKE]), "snakemake")
    try:
        main()
    except UserError as error:
        leave(f"error: {error}")
    except Exception as error:
        if not is_full(error):
            raise
        place = getattr(error, "filename", None) or "while writing"
        leave(f"error: no space left on the disk ({place}); make room and run again, what is complete is kept")
    if is_launched():
        _end(0)


def leave(sentence: str) -> None:
    """Exit with code 1 and a sentence.

    Most often the first of several processes meets the same mistake, says it, and the launcher ends the others.
    """
    if not is_first():
        time.sleep(PATIENCE)
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        with suppress(OSError), open(f"/proc/{os.environ.get(SNAKEMAKE)}/fd/2", "a") as screen:
            print(sentence, file=screen)
    if is_launched():
        _end(1)
    sys.exit(1)


def _end(code: int) -> NoReturn:
    """End one of several processes at once, without the interpreter's way out.

    A thread of gloo may still hold tensors of the last exchange. To give them back it asks for the interpreter, and
    where that is on its way out, the process aborts although all its work is done.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def is_launched() -> bool:
    """Whether this process is one of several of `sparsepo.runtime.launch`."""
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def is_full(error: Exception) -> bool:
    """Whether an error says that a disk or a quota is full; libraries in Rust say it in words only."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    return any(os.strerror(number) in str(error) for number in NO_ROOM)


@contextmanager
def naming(path: os.PathLike) -> Iterator[None]:
    """Let a full disk within be told as an OSError about `path`, which a failed write does not name."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def one_line(text: str, most: int = 600) -> str:
    """A text as it may stand in a sentence: printable, on one line, its middle left out beyond `most` characters."""
    head, tail = most - most // 3 - 5, most // 3
    short = text if len(text) <= most else f"{text[:head]} ... {text[-tail:]}"
    line = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in short)
    return line if len(line) <= most else f"{line[:head]} ... {line[-tail:]}"


def shown(value: Any, most: int = 60) -> str:
    """A value that was given, as JSON that may stand in a sentence, cut behind `most` characters."""
    try:
        text = json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} too large to show"
    line = one_line(text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."
