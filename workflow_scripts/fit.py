"""Fit the TF-IDF scorer of a task to its labelled documents, and say how good it is on those held out."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import Labelled, read_records
from sparsepo.evaluation.tfidf import describe_fit, fit
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print(describe_fit(fit(read_records(options.labelled, Labelled), folder=options.out, **options.settings)))


if __name__ == "__main__":
    run_main(main)
