"""Plot a few pairs token by token, before and after the masks."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import read_rows
from sparsepo.report.figures.style import save_figure
from sparsepo.report.figures.token_heatmap import plot_tokens
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, required=True, help="names the run")
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    score = json.loads(options.scores.read_text())
    setting = ", ".join(f"{name} {value}" for name, value in score["params"].items())
    save_figure(plot_tokens(read_rows(options.tokens), f"{score['label']}, {setting}"), options.out[0])


if __name__ == "__main__":
    run_main(main)
