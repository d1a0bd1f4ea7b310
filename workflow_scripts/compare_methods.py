"""Write the table that compares the methods of a task, each at the point that validation data chose."""

from sparsepo.data.records import read_json
from sparsepo.evaluation.tfidf import describe_fit
from sparsepo.report.tables.cells import write_comparison
from sparsepo.report.tables.comparison import compare
from sparsepo.report.tables.published import load_published
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import CompareMethodsSettings

OUTPUTS = ("csv", "markdown", "latex", "differences")


def main() -> None:
    usage = "measures... csv markdown latex differences [fitted-scorer]"
    options = stage_parser(__doc__, CompareMethodsSettings, usage).parse_args()
    settings, measures = options.settings, [read_json(path) for path in options.measures]
    comparison = compare(measures, settings.as_dict(), load_published(settings.published))
    reports = [options.fitted_scorer / "report.json"] if options.fitted_scorer else []
    notes = [describe_fit(read_json(path)) for path in reports]
    paths = {name: getattr(options, name) for name in OUTPUTS}
    about = {"notes": notes, "provenance": settings.provenance, "csv_bom": settings.csv_bom}
    write_comparison(comparison, **paths, **about)


if __name__ == "__main__":
    run_main(main)
