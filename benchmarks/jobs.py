"""CPU time and memory of the jobs of a finished run, stage by stage, from the status files beside their logs.

python benchmarks/jobs.py [FOLDER]      # the folder that holds logs/; default: this one
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from sparsepo.workflow.registry import STAGES


def stage_of(path: Path) -> str:
    """The stage of a status file: the part of its path that is the name of one."""
    names = [part.removesuffix(".status.json") for part in path.parts]
    return next(name for name in names if name in STAGES or name == "job_server")


def main(logs: Path) -> None:
    jobs = defaultdict(list)
    for path in logs.rglob("*.status.json"):
        jobs[stage_of(path.relative_to(logs))].append(json.loads(path.read_text(encoding="utf-8")))
    print("| stage | jobs | CPU seconds | of a job | most memory, MB |\n| --- | --- | --- | --- | --- |")
    for stage in filter(jobs.get, (*STAGES, "job_server")):
        seconds = [job["cpu_seconds"] or 0 for job in jobs[stage]]
        memory = max(job["memory_mb"] or 0 for job in jobs[stage])
        print(f"| {stage} | {len(seconds)} | {sum(seconds):.1f} | {sum(seconds) / len(seconds):.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]) / "logs")
