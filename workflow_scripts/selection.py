"""Plot how an oracle's scores add up, and the reward of runs that select by them."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import Preference, read_records
from sparsepo.report.figures.style import save_figure
from sparsepo.report.figures.token_selection import Oracle, plot_selection
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True, help="share of the data of each oracle")
    parser.add_argument("--scores", type=Path, nargs="+", required=True)
    parser.add_argument("--summaries", type=Path, nargs="+", required=True, help="of the oracles, in their order")
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, help="validation pairs as each scored them")
    parser.add_argument("--out", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    files = zip(options.settings.items(), options.summaries, options.pairs, strict=True)
    oracles = {
        name: Oracle(share, json.loads(summary.read_text())["parameters"], read_records(pairs, Preference))
        for (name, share), summary, pairs in files
    }
    save_figure(plot_selection([json.loads(path.read_text()) for path in options.scores], oracles), options.out[0])


if __name__ == "__main__":
    run_main(main)
