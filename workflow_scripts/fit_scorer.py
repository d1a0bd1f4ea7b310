"""Fit the TF-IDF scorer of a task to its labelled documents, and measure it on those held out."""

from sparsepo.data.records import Labelled, read_records
from sparsepo.evaluation.tfidf import describe_fit, fit
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import FitScorerSettings


def main() -> None:
    options = stage_parser(__doc__, FitScorerSettings, "labelled out").parse_args()
    settings, documents = options.settings, read_records(options.labelled, Labelled)
    print(describe_fit(fit(documents, folder=options.out, seed=settings.seed, pairs=settings.pairs)))


if __name__ == "__main__":
    run_main(main)
