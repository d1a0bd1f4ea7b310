"""Write the page that shows what a sweep found: one file of HTML."""

import argparse
import json
from pathlib import Path

from sparsepo.report.html.build import write_page
from sparsepo.report.html.task_results import TaskResults
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument(
        "--results", type=Path, required=True, help="folder of all tasks; that of the logs is beside it"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    logs = options.results.parent / "logs"
    tasks = [TaskResults(name, options.results, logs, **_of(task)) for name, task in settings["tasks"].items()]
    write_page(settings["name"], settings["version"], tasks, options.out)


def _of(task: dict) -> dict:
    """Runs are told by their settings and seeds, which makes a command line that holds thousands of them."""
    points = task.pop("points")
    return task | {"runs": [f"{point}/seed~{seed}" for point in points for seed in task["config"]["seeds"]]}


if __name__ == "__main__":
    run_main(main)
