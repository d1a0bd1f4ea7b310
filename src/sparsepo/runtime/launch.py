"""Run a training script on several processes of this machine, one a GPU.

`python -m sparsepo.runtime.launch --processes N [--accelerate FILE] SCRIPT ARGUMENT...` is `accelerate launch` on a
free port of this machine, so that several runs can go on at a time, and without the user's own accelerate config.
Without a GPU the processes share the CPU, each with a part of the threads.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

DDP_CONFIG = Path(__file__).parent / "ddp.yaml"
"""Taken where no accelerate config is given: each process has a whole copy of the model."""


def is_launched() -> bool:
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def python_command(processes: int, accelerate: Path | None) -> str:
    if processes == 1:
        return "python"
    file = "" if accelerate is None else f" --accelerate {quote(str(accelerate))}"
    return f"python -m sparsepo.runtime.launch --processes {processes}{file}"


def launch_arguments(processes: int, accelerate: Path | None, threads: int, script: Sequence[str]) -> list[str]:
    """The arguments of `accelerate launch`. Precision is that of the task's config, not of the accelerate config."""
    options = {
        "--config_file": accelerate or DDP_CONFIG,
        "--num_processes": processes,
        "--num_machines": 1,
        "--main_process_ip": "127.0.0.1",
        "--main_process_port": 0,
        "--num_cpu_threads_per_process": max(1, threads // processes),
        "--mixed_precision": "no",
    }
    return [*(str(part) for item in options.items() for part in item), *script]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--accelerate", type=Path, help="a config file of accelerate, for FSDP or DeepSpeed")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="a Python script and its arguments")
    options = parser.parse_args()
    from torch import accelerator

    devices = accelerator.device_count() if accelerator.is_available() else 0
    if 0 < devices < options.processes:
        sys.exit(f"error: {options.processes} processes need a GPU each, and {devices} can be used here")
    if not devices:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    launch(launch_arguments(options.processes, options.accelerate, threads, options.script))


if __name__ == "__main__":
    main()
