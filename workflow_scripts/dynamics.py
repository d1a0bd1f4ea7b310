"""Plot mask sparsity and token KL over the steps of training."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import read_rows
from sparsepo.report.figures.dynamics import plot_sparsity, plot_token_kl
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="name the runs and methods")
    parser.add_argument("--dynamics", type=Path, nargs="+", required=True, help="in the same order")
    parser.add_argument("--sparsity", type=Path, nargs="+", required=True)
    parser.add_argument("--token-kl", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    scores = [json.loads(path.read_text()) for path in options.scores]
    dynamics = {score["run"]: read_rows(path) for score, path in zip(scores, options.dynamics, strict=True)}
    labels = {score["method"]: score["label"] for score in scores}
    save_figure(plot_sparsity(dynamics, labels), options.sparsity[0])
    save_figure(plot_token_kl(dynamics, labels), options.token_kl[0])


if __name__ == "__main__":
    run_main(main)
