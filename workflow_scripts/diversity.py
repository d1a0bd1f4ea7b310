"""Plot a task's reward over the entropy of responses."""

import argparse
import json
from pathlib import Path

from sparsepo.report.figures.frontier import plot_diversity
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    save_figure(plot_diversity([json.loads(path.read_text()) for path in options.scores]), options.out[0])


if __name__ == "__main__":
    run_main(main)
