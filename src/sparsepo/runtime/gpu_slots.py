"""Run a command on GPUs of its own: `python -m sparsepo.runtime.gpu_slots [--count N] -- COMMAND...`.

Snakemake only counts GPUs; on a machine without a scheduler nobody says which ones a job may use.
"""

import fcntl
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

USAGE = "usage: python -m sparsepo.runtime.gpu_slots [--count N] -- COMMAND..."


def main(arguments: list[str]) -> None:
    """Replace this process by the command, with N free GPUs (one unless said) visible to it.

    Under Slurm, which hands out devices itself, and where there is no GPU, the command runs as it
    is. Exits with code 2 when there is no command, and with a sentence when more GPUs are asked for
    than could ever be free.
    """
    match arguments:
        case ["--", *command] if command:
            count = 1
        case ["--count", number, "--", *command] if command and number.isdecimal() and int(number):
            count = int(number)
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(2)
    gpus = [] if "SLURM_JOB_ID" in os.environ else visible_gpus()
    if gpus:
        if count > len(gpus):
            sys.exit(f"error: {count} GPUs are asked for, and {len(gpus)} can be used here: {', '.join(gpus)}")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(acquire_gpus(gpus, count))
    os.execvp(command[0], command)


def visible_gpus() -> list[str]:
    """Ids a job may use: those of CUDA_VISIBLE_DEVICES if set, else those of nvidia-smi; each once.

    An empty CUDA_VISIBLE_DEVICES and -1 hide all of them, as they do for CUDA.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        ids = chosen.replace(" ", "").split(",")
        return [gpu for gpu in dict.fromkeys(ids) if gpu not in ("", "-1")]
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []


def acquire_gpus(gpus: list[str], count: int) -> list[str]:
    """Wait for free GPUs and hold their locks for the life of this process and of what it becomes.

    A lock is a flock on an inherited descriptor, so the kernel gives it back however the command
    dies; a file of process ids would outlive a SIGKILL. A job takes all it needs or none, one job
    looking at a time, so that two jobs never wait for each other. Locks are per user and per
    temporary folder: jobs of other users are not seen.
    """
    locks = Path(tempfile.gettempdir(), f"sparsepo-gpus-{os.getuid()}")
    locks.mkdir(mode=0o700, exist_ok=True)
    waiting = False
    while True:
        with alone(locks / "looking"):
            held = try_locks(locks, gpus, count)
        if len(held) == count:
            return list(held)
        if not waiting:
            number = "one" if count == 1 else count
            print(f"waiting for {number} of the GPUs {', '.join(gpus)}", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(random.uniform(0.5, 1.5))  # uneven, so that no waiter is always the last to look


@contextmanager
def alone(path: Path):
    """One process at a time, for the moment that a look takes."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_locks(locks: Path, gpus: list[str], count: int) -> dict[str, int]:
    """Lock `count` GPUs that nobody holds, GPU -> open descriptor; none when there are fewer."""
    held: dict[str, int] = {}
    for gpu in gpus:
        descriptor = try_lock(locks / f"gpu-{gpu.replace('/', '_')}")
        if descriptor is not None:
            held[gpu] = descriptor
        if len(held) == count:
            return held
    for descriptor in held.values():
        os.close(descriptor)
    return {}


def try_lock(path: Path) -> int | None:
    """Lock the file unless another process holds it; the descriptor survives an exec."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.set_inheritable(descriptor, True)
    return descriptor


if __name__ == "__main__":
    main(sys.argv[1:])
