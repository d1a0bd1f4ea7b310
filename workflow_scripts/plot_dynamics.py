"""Plot mask sparsity and token KL over the steps of training."""

from sparsepo.data.records import read_json, read_rows
from sparsepo.report.figures.dynamics import plot_sparsity, plot_token_kl
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import StageSettings


def main() -> None:
    options = stage_parser(__doc__, StageSettings, "scores... dynamics... sparsity... token-kl...").parse_args()
    scores = [read_json(path) for path in options.scores]
    dynamics = {score["run"]: read_rows(path) for score, path in zip(scores, options.dynamics, strict=True)}
    labels = {score["method"]: score["label"] for score in scores}
    save_figure(plot_sparsity(dynamics, labels), options.sparsity[0])
    save_figure(plot_token_kl(dynamics, labels), options.token_kl[0])


if __name__ == "__main__":
    run_main(main)
