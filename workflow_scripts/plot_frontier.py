"""Plot a task's reward-KL frontier, of final policies and of all that were measured during training."""

from sparsepo.data.records import read_json, read_rows
from sparsepo.report.figures.frontier import plot_frontier, plot_pareto
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import StageSettings


def main() -> None:
    options = stage_parser(__doc__, StageSettings, "scores... frontier... final... pareto...").parse_args()
    scores = [read_json(path) for path in options.scores]
    trained = [score["run"] for score in scores if score["method"] != "sft"]
    points = dict(zip(trained, map(read_rows, options.frontier), strict=True))
    save_figure(plot_frontier(scores, points), options.final[0])
    save_figure(plot_pareto(scores, points), options.pareto[0])


if __name__ == "__main__":
    run_main(main)
