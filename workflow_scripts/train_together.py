"""Train several policies in one process, which share the passes of the frozen reference."""

import shutil
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from sparsepo.data.records import write_json
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import TrainTogetherSettings

USAGE = "reference pairs config code-versions runs out [policy] [validation] [prompts] [fitted-scorer]"


def train_like(first: Namespace, options: Namespace, sharing: Any) -> None:
    """Train a run in micro-batches of the size that the first run chose."""
    from train_policy import train

    from sparsepo.training.base_trainer import MICRO_BATCH_FILE

    size, own_size = (each.checkpoint / MICRO_BATCH_FILE for each in (first, options))
    if size.is_file() and not own_size.exists():
        own_size.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(size, own_size)
    train(options, sharing)


def main() -> None:
    start = time.perf_counter()
    options = stage_parser(__doc__, TrainTogetherSettings, USAGE).parse_args()
    from train_policy import LOG, TRAINED, is_trained

    jobs: dict[Path, Namespace] = {}
    for run, settings in options.settings.runs.items():
        folder = options.runs / run
        own = {"settings": settings, "code_version": options.code_versions[run], "iteration": None, "cache": []}
        own |= {"start": start, "out": folder / TRAINED, "checkpoint": folder / "checkpoint"}
        job = Namespace(**vars(options) | own)
        if is_trained(folder, job) or is_trained(job.out, job):
            print(f"{run}: trained before", flush=True)
            continue
        shutil.rmtree(job.out, ignore_errors=True)
        job.out.mkdir(parents=True)
        jobs[job.out / LOG] = job
    errors = {}
    if jobs:
        from sparsepo.training.together import SharedReference

        first = next(iter(jobs.values()))
        error_of_each = SharedReference().train({log: partial(train_like, first, job) for log, job in jobs.items()})
        errors = {str(log): error for log, error in zip(jobs, error_of_each, strict=True) if error}
    for log, error in errors.items():
        print(f"{log}: {error}; its own job trains it again", flush=True)
    write_json(options.out, {"trained": [str(log.parent) for log in jobs if str(log) not in errors], "errors": errors})


if __name__ == "__main__":
    run_main(main)
