"""Plot reward and KL after each round of training."""

from statistics import fmean

from sparsepo.data.records import read_json, read_rows
from sparsepo.report.figures.iterations import plot_rounds
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import PlotRoundsSettings


def main() -> None:
    options = stage_parser(__doc__, PlotRoundsSettings, "sft frontier... out...").parse_args()
    points = dict(zip(options.settings.runs, map(read_rows, options.frontier), strict=True))
    save_figure(plot_rounds(points, fmean(read_json(options.sft)["reward"])), options.out[0])


if __name__ == "__main__":
    run_main(main)
