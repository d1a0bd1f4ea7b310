"""Plot what each round of training brought."""

import argparse
import json
from pathlib import Path
from statistics import fmean

from sparsepo.data.records import read_rows
from sparsepo.report.figures.iterations import plot_rounds
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="+", required=True, help="paths of the runs")
    parser.add_argument("--points", type=Path, nargs="+", required=True, help="of these runs, in their order")
    parser.add_argument("--sft", type=Path, required=True, help="scores of the SFT model")
    parser.add_argument("--out", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    points = dict(zip(options.runs, map(read_rows, options.points), strict=True))
    save_figure(plot_rounds(points, fmean(json.loads(options.sft.read_text())["reward"])), options.out[0])


if __name__ == "__main__":
    run_main(main)
