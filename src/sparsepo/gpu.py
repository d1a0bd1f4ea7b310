"""Run a command on a GPU of its own: `python -m sparsepo.gpu -- COMMAND...`.

Snakemake only counts GPUs; on a machine without a scheduler nobody says which one a job may use.
"""

import fcntl
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Replace this process by the command, with one free GPU visible to it.

    Under Slurm, which hands out devices itself, and where there is no GPU, the command runs as it
    is. Exits with code 2 when there is no command.
    """
    if len(arguments) < 2 or arguments[0] != "--":
        print("usage: python -m sparsepo.gpu -- COMMAND...", file=sys.stderr)
        sys.exit(2)
    gpus = [] if "SLURM_JOB_ID" in os.environ else visible_gpus()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = take_one(gpus)
    command = arguments[1:]
    os.execvp(command[0], command)


def visible_gpus() -> list[str]:
    """Ids a job may use: those of CUDA_VISIBLE_DEVICES if set, else those of nvidia-smi.

    An empty CUDA_VISIBLE_DEVICES and -1 hide all of them, as they do for CUDA.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.replace(" ", "").split(",") if gpu not in ("", "-1")]
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []


def take_one(gpus: list[str]) -> str:
    """Wait for a free GPU and hold its lock for the life of this process and of what it becomes.

    A lock is a flock on an inherited descriptor, so the kernel gives it back however the command
    dies; a file of process ids would outlive a SIGKILL. Locks are per user and per temporary
    folder: jobs of other users are not seen.
    """
    locks = Path(tempfile.gettempdir(), f"sparsepo-gpus-{os.getuid()}")
    locks.mkdir(mode=0o700, exist_ok=True)
    waiting = False
    while True:
        for gpu in gpus:
            if try_lock(locks / gpu):
                return gpu
        if not waiting:
            print(f"waiting for one of the GPUs {', '.join(gpus)}", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(random.uniform(0.5, 1.5))  # uneven, so that waiters do not step on each other


def try_lock(path: Path) -> bool:
    """Lock the file unless another process holds it; the open descriptor survives an exec."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    os.set_inheritable(descriptor, True)
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
