"""Write the table that compares the methods of a task, each at the point that validation data chose."""

import argparse
import json
from pathlib import Path

from sparsepo.evaluation.tfidf import describe_fit
from sparsepo.report.tables.cells import write_comparison
from sparsepo.report.tables.comparison import compare
from sparsepo.report.tables.published import load_published
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--measures", type=Path, nargs="+", required=True)
    parser.add_argument("--scorer", type=Path, nargs="*", default=[], help="what is known of the scorer fitted here")
    for kind in ("csv", "markdown", "latex", "differences"):
        parser.add_argument(f"--{kind}", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    files = [json.loads(path.read_text()) for path in options.measures]
    comparison = compare(files, settings, load_published(settings["published"]))
    notes = [describe_fit(json.loads(path.read_text())) for path in options.scorer]
    targets = {kind: getattr(options, kind) for kind in ("csv", "markdown", "latex", "differences")}
    write_comparison(comparison, **targets, notes=notes, provenance=settings["provenance"])


if __name__ == "__main__":
    run_main(main)
