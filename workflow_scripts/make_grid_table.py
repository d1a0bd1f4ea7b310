"""Write the table of every point of every grid of a task as CSV, Markdown and LaTeX."""

from sparsepo.data.records import read_json
from sparsepo.report.tables.grid import grid_frame, write_grid
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import MakeGridTableSettings

OUTPUTS = ("csv", "markdown", "latex")


def main() -> None:
    options = stage_parser(__doc__, MakeGridTableSettings, "scores... csv markdown latex").parse_args()
    table = grid_frame([read_json(path) for path in options.scores])
    paths = {name: getattr(options, name) for name in OUTPUTS}
    write_grid(table, **paths, provenance=options.settings.provenance, csv_bom=options.settings.csv_bom)


if __name__ == "__main__":
    run_main(main)
