"""Plot a task's reward-KL frontier."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import read_rows
from sparsepo.report.figures.frontier import plot_frontier
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, nargs="+", required=True)
    parser.add_argument("--points", type=Path, nargs="+", required=True, help="of the trained runs, in their order")
    parser.add_argument("--out", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    scores = [json.loads(path.read_text()) for path in options.scores]
    trained = [score["run"] for score in scores if score["method"] != "sft"]
    points = dict(zip(trained, map(read_rows, options.points), strict=True))
    save_figure(plot_frontier(scores, points), options.out[0])


if __name__ == "__main__":
    run_main(main)
