"""Plot what is measured of generated responses over the temperature."""

import argparse
from pathlib import Path

import pandas as pd

from sparsepo.report.figures.style import save_figure
from sparsepo.report.figures.temperatures import plot_temperatures
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="the comparison, as CSV")
    parser.add_argument("--out", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    save_figure(
        plot_temperatures(pd.read_csv(options.table, keep_default_na=True, dtype={"variant": str})), options.out[0]
    )


if __name__ == "__main__":
    run_main(main)
