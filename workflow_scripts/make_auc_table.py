"""Write the table of how well token signals find what was planted, beside controls, as CSV, Markdown and LaTeX."""

from sparsepo.data.records import read_json
from sparsepo.report.tables.planted_auc import auc_frame, write_auc
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import MakeAucTableSettings

OUTPUTS = ("csv", "markdown", "latex")


def main() -> None:
    options = stage_parser(__doc__, MakeAucTableSettings, "scores... csv markdown latex").parse_args()
    table = auc_frame([read_json(path) for path in options.scores])
    paths = {name: getattr(options, name) for name in OUTPUTS}
    write_auc(table, **paths, provenance=options.settings.provenance, csv_bom=options.settings.csv_bom)


if __name__ == "__main__":
    run_main(main)
