"""How every command of the package begins and ends: one line for a mistake of the user, and a status file for a job."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread, Timer
from typing import NoReturn

import psutil

from sparsepo.runtime.errors import UserError, is_disk_full, is_out_of_memory, one_line
from sparsepo.runtime.launch import SNAKEMAKE, is_first, is_launched, log_of_this_job
from sparsepo.runtime.status import end_status, start_status
from sparsepo.runtime.user_code import user_error

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
POLL_SECONDS = 1.0
OTHERS_WAIT = 20.0  # seconds that a process waits with its error message for the first of several to print one


def run_main(main: Callable[[], None]) -> None:
    """Call `main`; a UserError, a full disk or full memory becomes one line on stderr and exit code 1, as does an error
    in code of the user, behind the traceback of that code.

    A job of Snakemake keeps a status file (see `sparsepo.runtime.status`) and ends when its Snakemake does. Of several
    processes (see `sparsepo.runtime.launch`) the first alone prints, and each ends with the launcher.
    """
    if is_launched():
        exit_with_parent(os.getppid(), "the launcher")
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    snakemake, log = os.environ.get(SNAKEMAKE, ""), log_of_this_job()
    if snakemake.isdecimal():
        exit_with_parent(int(snakemake), "snakemake")
        if log is not None:
            start_status(log)
    try:
        main()
    except UserError as error:
        _exit_with_error(str(error))
    except Exception as error:
        if is_disk_full(error):
            place = getattr(error, "filename", None) or "while writing"
            _exit_with_error(f"no space left on the disk ({place}); make room and run again, what is complete is kept")
        if (users := user_error(error)) is not None:
            print(users[1], end="", file=sys.stderr)
            _exit_with_error(users[0])
        if isinstance(error, OSError) and error.errno in NOT_ALLOWED and error.filename:
            _exit_with_error(f"{error.filename}: {error.strerror}")
        if is_out_of_memory(error):
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            _exit_with_error(f"out of memory ({first}); lower the batch_size of the section that this job reads")
        end_status("failed", f"{type(error).__name__}: {error}".strip().splitlines()[0])
        raise
    except KeyboardInterrupt:
        end_status("stopped")
        raise
    except SystemExit as end:
        end_status("failed" if end.code else "finished", f"exit code {end.code}; see its log" if end.code else "")
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust, whose name cannot be imported
            raise
        _exit_with_error(f"the tokenizer gave up on a text ({one_line(str(error), 200)}): see its regular expressions")
    end_status("finished")
    if is_launched():
        exit_at_once(0)


def _exit_with_error(message: str) -> NoReturn:
    """Print an error and exit with code 1. Where stderr is a log on a full disk, the line goes to Snakemake's stderr.

    Most often the first of several processes meets the same mistake and prints it, and the launcher ends the others.
    """
    if not is_first():
        time.sleep(OTHERS_WAIT)
    end_status("failed", message)
    try:
        print(f"error: {message}", file=sys.stderr, flush=True)
    except OSError:
        with suppress(OSError), open(f"/proc/{os.environ.get(SNAKEMAKE)}/fd/2", "a", encoding="utf-8") as stderr:
            print(f"error: {message}", file=stderr)
    if is_launched():
        exit_at_once(1)
    sys.exit(1)


def exit_at_once(code: int) -> NoReturn:
    """End this process without the shutdown of the interpreter.

    In one of several processes a thread of gloo may still hold tensors of the last exchange. It needs the interpreter
    to free them; while that shuts down, the process would abort although all its work is done.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """End this process with an error message where the block takes longer, also within a call of a library."""

    def end() -> None:
        with suppress(SystemExit):
            _exit_with_error(message)
        exit_at_once(1)

    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def exit_with_parent(pid: int, name: str) -> None:
    """End this process, as if it were killed, within a second or two of the process `pid`, which is called `name`."""
    with suppress(psutil.NoSuchProcess):
        Thread(target=_wait_for_end, args=(psutil.Process(pid), name), daemon=True).start()


def _wait_for_end(process: psutil.Process, name: str) -> None:
    while _is_alive(process):
        time.sleep(POLL_SECONDS)
    end_status("stopped")
    with suppress(OSError):
        print(f"{name} (process {process.pid}) has ended, and this job with it", file=sys.stderr, flush=True)
    os._exit(1)


def _is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not, nor does another process with the same id."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
