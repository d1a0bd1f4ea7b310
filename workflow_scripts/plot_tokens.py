"""Plot a few pairs token by token, before and after the masks."""

from sparsepo.data.records import read_json, read_rows
from sparsepo.report.figures.style import save_figure
from sparsepo.report.figures.token_heatmap import plot_tokens
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import StageSettings


def main() -> None:
    options = stage_parser(__doc__, StageSettings, "scores tokens out...").parse_args()
    score = read_json(options.scores)
    params = ", ".join(f"{name} {value}" for name, value in score["params"].items())
    save_figure(plot_tokens(read_rows(options.tokens), f"{score['label']}, {params}"), options.out[0])


if __name__ == "__main__":
    run_main(main)
