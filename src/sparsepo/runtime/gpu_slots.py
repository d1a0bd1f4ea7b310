"""Run a command on free GPUs: `python -m sparsepo.runtime.gpu_slots [--count N] -- COMMAND...`.

Snakemake only counts GPUs. On a machine without a scheduler nothing else says which ones a job may use.
"""

import fcntl
import os
import random
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from sparsepo.runtime.start_job import start_job

USAGE = "usage: python -m sparsepo.runtime.gpu_slots [--count N] -- COMMAND..."


def main(arguments: list[str]) -> None:
    """Replace this process by the command, which sees N free GPUs (default: 1).

    Under Slurm, which assigns devices itself, and on a machine without a GPU, the command runs unchanged. Without any
    GPU it may be started by the job server: whether CUDA works in a fork was not tried. Exits with
    code 2 if there is no command, and with an error message if there are fewer GPUs than N.
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
    if gpus or "SLURM_JOB_ID" in os.environ:
        os.execvp(command[0], command)
    start_job(command)


def visible_gpus() -> list[str]:
    """Ids of the GPUs that a job may use, without duplicates: of CUDA_VISIBLE_DEVICES if it is set, else of nvidia-smi.

    An empty CUDA_VISIBLE_DEVICES and -1 hide all GPUs, as they do for CUDA.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        ids = chosen.replace(" ", "").split(",")
        return [gpu for gpu in dict.fromkeys(ids) if gpu not in ("", "-1")]
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, encoding="utf-8", check=True).stdout.split()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []


def acquire_gpus(gpus: list[str], count: int) -> list[str]:
    """Wait for free GPUs and lock them until this process, or the command that replaces it, ends.

    A lock is a flock on an inherited file descriptor: the kernel releases it however the command ends, also by SIGKILL.
    A job locks all GPUs that it needs or none, and one job at a time tries, so that two jobs never wait for each other.
    Locks are per user and temporary folder: jobs of other users are not seen.
    """
    locks = own_folder(Path(tempfile.gettempdir(), f"sparsepo-gpus-{os.getuid()}"))
    waiting = False
    while True:
        with exclusive_lock(locks / "looking"):
            held = try_locks(locks, gpus, count)
        if len(held) == count:
            return list(held)
        if not waiting:
            number = "one" if count == 1 else count
            print(f"waiting for {number} of the GPUs {', '.join(gpus)}", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(random.uniform(0.5, 1.5))  # random, so that no job is always the last to try


def own_folder(path: Path) -> Path:
    """A folder of this name that only this user can write to; where another user took the name, with a number added.

    Exits with an error message if a hundred names are taken.
    """
    for number in range(100):
        folder = path.with_name(f"{path.name}-{number}") if number else path
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return folder
    sys.exit(f"error: {path} and 99 other names are taken by another user; set TMPDIR to a folder of your own")


@contextmanager
def exclusive_lock(path: Path):
    """One process at a time; others wait."""
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_locks(locks: Path, gpus: list[str], count: int) -> dict[str, int]:
    """Lock `count` free GPUs, GPU -> open descriptor, which survives an exec; none of them if there are fewer."""
    held: dict[str, int] = {}
    for gpu in gpus:
        descriptor = os.open(locks / f"gpu-{gpu.replace('/', '_')}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.set_inheritable(descriptor, True)
        held[gpu] = descriptor
        if len(held) == count:
            return held
    for descriptor in held.values():
        os.close(descriptor)
    return {}


if __name__ == "__main__":
    main(sys.argv[1:])
