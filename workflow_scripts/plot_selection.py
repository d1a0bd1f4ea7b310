"""Plot how an oracle's scores add up, and the reward of runs that select by them."""

from sparsepo.data.records import Preference, read_json, read_records
from sparsepo.report.figures.style import save_figure
from sparsepo.report.figures.token_selection import Oracle, plot_selection
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import PlotSelectionSettings


def main() -> None:
    options = stage_parser(__doc__, PlotSelectionSettings, "scores... summaries... pairs... out...").parse_args()
    files = zip(options.settings.shares.items(), options.summaries, options.pairs, strict=True)
    oracles = {
        name: Oracle(share, read_json(summary)["parameters"], read_records(pairs, Preference))
        for (name, share), summary, pairs in files
    }
    save_figure(plot_selection([read_json(path) for path in options.scores], oracles), options.out[0])


if __name__ == "__main__":
    run_main(main)
