"""Run a training script on several processes, one a GPU, of this machine or of the nodes of a Slurm job.

`python -m sparsepo.runtime.launch --processes N [--machines M] [--accelerate FILE] SCRIPT ARGUMENT...` is
`accelerate launch` on a free port of this machine, so that several runs can go on at a time, and without the user's own
accelerate config. Without a GPU the processes share the CPU, each with a part of the threads. With several machines
`srun` starts this command again on each, and the processes meet at the first.
"""

import argparse
import fcntl
import logging
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NoReturn

DDP_CONFIG = Path(__file__).parent / "ddp.yaml"
"""Taken where no accelerate config is given: each process has a whole copy of the model."""

SNAKEMAKE = "SPARSEPO_SNAKEMAKE"
"""The variable in which the workflow gives the process id of Snakemake to its jobs."""
LOG = "SPARSEPO_LOG"
"""The variable with the log of a job whose processes write to `srun`, which writes to the log."""
SLURM_JOB = ("SLURM_JOB_ID", "SLURM_CONF")
"""What a new step of a Slurm job is told of the job; other variables are about the step that this process is in."""


def is_launched() -> bool:
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def log_of_this_job() -> Path | None:
    """The log that stdout is redirected to, as in every rule of the workflow; None if stdout is something else."""
    try:
        if LOG in os.environ:
            name = os.environ[LOG]
        elif hasattr(fcntl, "F_GETPATH"):  # macOS
            name = os.fsdecode(fcntl.fcntl(1, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
        else:
            name = os.readlink("/proc/self/fd/1")
    except OSError:
        return None
    return Path(name) if name.endswith(".log") else None


def python_command(processes: int, machines: int, accelerate: Path | None) -> str:
    if processes == 1:
        return "python"
    options = {"processes": processes} | ({} if machines == 1 else {"machines": machines})
    options |= {} if accelerate is None else {"accelerate": quote(str(accelerate))}
    return " ".join(["python -m sparsepo.runtime.launch", *(f"--{name} {value}" for name, value in options.items())])


def launch_arguments(
    options: argparse.Namespace, threads: int, rank: int = 0, address: str = "127.0.0.1", port: int = 0
) -> list[str]:
    """The arguments of `accelerate launch` on machine `rank` of several, which meet at this address of the first.

    Precision is that of the task's config, not of the accelerate config.
    """
    arguments = {
        "--config_file": options.accelerate or DDP_CONFIG,
        "--num_processes": options.processes,
        "--num_machines": options.machines,
        "--machine_rank": rank,
        "--main_process_ip": address,
        "--main_process_port": port,
        "--num_cpu_threads_per_process": max(1, threads * options.machines // options.processes),
        "--mixed_precision": "no",
    }
    return [*(str(part) for item in arguments.items() for part in item), *options.script]


def launch(arguments: list[str]) -> None:
    """Run accelerate. Exits with code 1 if a process fails, which has printed its error itself."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError:
        sys.exit(1)
    except SignalException as received:
        sys.exit(128 + received.sigval)


def start_on_machines(machines: int, threads: int, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `srun`, which runs this command on each node of the job, and ends all if one fails."""
    if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
        sys.exit(f"error: num_machines: {machines} needs a job of Slurm: snakemake --workflow-profile profiles/slurm")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_"))}
    environment |= {name: os.environ[name] for name in SLURM_JOB if name in os.environ}
    environment |= {LOG: str(log_of_this_job() or "")}
    step = f"--nodes={machines} --ntasks={machines} --ntasks-per-node=1 --cpus-per-task={threads} --kill-on-bad-exit=1"
    command = [sys.executable, "-m", "sparsepo.runtime.launch", "--meet", f"{socket.gethostname()}:{port}", *arguments]
    os.execvpe("srun", ["srun", *step.split(), *command], environment)


def place_of_this_machine(meeting: str) -> tuple[int, str, int]:
    """Rank of this machine among those of the step; address and port of the first one, where `srun` was started."""
    rank, (host, port) = int(os.environ["SLURM_NODEID"]), meeting.rsplit(":", 1)
    if rank == 0 and host != socket.gethostname():
        sys.exit(
            f"error: a run on several machines has to be started on {socket.gethostname()}, the first, not on {host}"
        )
    if rank and SNAKEMAKE in os.environ:
        os.environ[SNAKEMAKE] = str(os.getpid())  # Snakemake's id is that of another process here, or of none
    return rank, os.environ["SLURM_LAUNCH_NODE_IPADDR"], int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, required=True, help="on all machines together")
    parser.add_argument("--machines", type=int, default=1, help="nodes of the Slurm job that this command runs in")
    parser.add_argument("--accelerate", type=Path, help="a config file of accelerate, for FSDP or DeepSpeed")
    parser.add_argument("--meet", help=argparse.SUPPRESS)
    parser.add_argument("script", nargs=argparse.REMAINDER, help="a Python script and its arguments")
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    if options.machines > 1 and options.meet is None:
        start_on_machines(options.machines, threads, sys.argv[1:])
    place = place_of_this_machine(options.meet) if options.meet else ()
    from torch import accelerator

    here = options.processes // options.machines
    devices = accelerator.device_count() if accelerator.is_available() else 0
    if 0 < devices < here:
        sys.exit(f"error: {here} processes need a GPU each, and {devices} can be used on {socket.gethostname()}")
    if not devices:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    for name in (
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
    ):  # Snakemake gives each of them the threads of all processes
        os.environ.pop(name, None)
    launch(launch_arguments(options, threads, *place))


if __name__ == "__main__":
    main()
