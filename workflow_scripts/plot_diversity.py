"""Plot a task's reward over the entropy of responses."""

from sparsepo.data.records import read_json
from sparsepo.report.figures.frontier import plot_diversity
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import StageSettings


def main() -> None:
    options = stage_parser(__doc__, StageSettings, "scores... out...").parse_args()
    save_figure(plot_diversity([read_json(path) for path in options.scores]), options.out[0])


if __name__ == "__main__":
    run_main(main)
