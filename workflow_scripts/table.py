"""Write a task's table as CSV, Markdown and LaTeX."""

import argparse
import json
from pathlib import Path

from sparsepo.report.tables.grid import grid_frame, write_grid
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--scores", type=Path, nargs="+", required=True)
    for kind in ("csv", "markdown", "latex"):
        parser.add_argument(f"--{kind}", type=Path, required=True)
    options = parser.parse_args()
    frame = grid_frame([json.loads(path.read_text()) for path in options.scores])
    targets = {kind: getattr(options, kind) for kind in ("csv", "markdown", "latex")}
    write_grid(frame, **targets, provenance=options.settings["provenance"])


if __name__ == "__main__":
    run_main(main)
