"""Plot one pair token by token under several methods, every row scaled to [0, 1]."""

from sparsepo.data.records import read_json, read_rows
from sparsepo.report.figures.style import save_figure
from sparsepo.report.figures.token_heatmap import plot_token_comparison
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import StageSettings


def main() -> None:
    options = stage_parser(__doc__, StageSettings, "scores... tokens... out...").parse_args()
    labels = [read_json(path)["label"] for path in options.scores]
    examples = dict(zip(labels, map(read_rows, options.tokens), strict=True))
    save_figure(plot_token_comparison(examples), options.out[0])


if __name__ == "__main__":
    run_main(main)
