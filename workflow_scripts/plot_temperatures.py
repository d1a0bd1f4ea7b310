"""Plot what is measured of generated responses over the temperature."""

import io

import pandas as pd

from sparsepo.data.records import read_text
from sparsepo.report.figures.style import save_figure
from sparsepo.report.figures.temperatures import plot_temperatures
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import StageSettings


def main() -> None:
    options = stage_parser(__doc__, StageSettings, "table out...").parse_args()
    table = pd.read_csv(io.StringIO(read_text(options.table)), keep_default_na=True, dtype={"variant": str})
    save_figure(plot_temperatures(table), options.out[0])


if __name__ == "__main__":
    run_main(main)
