"""Write the table of rewards at the same KL as CSV, Markdown and LaTeX."""

from sparsepo.data.records import read_json
from sparsepo.report.tables.matched_kl import matched_kl_frame, write_matched_kl
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import MakeMatchedKlTableSettings

OUTPUTS = ("csv", "markdown", "latex")


def main() -> None:
    options = stage_parser(__doc__, MakeMatchedKlTableSettings, "scores... csv markdown latex").parse_args()
    table = matched_kl_frame([read_json(path) for path in options.scores])
    paths = {name: getattr(options, name) for name in OUTPUTS}
    write_matched_kl(table, **paths, provenance=options.settings.provenance, csv_bom=options.settings.csv_bom)


if __name__ == "__main__":
    run_main(main)
