"""A job whose Snakemake was killed ends as well: nobody waits for it, and the next run would meet it in its folder."""

import os
import sys
import time
from contextlib import suppress
from threading import Thread

SECONDS = 1.0  # between two looks


def end_with(pid: int, name: str) -> None:
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
