"""Measure a policy on tasks of lm-eval."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import write_json
from sparsepo.errors import run
from sparsepo.evaluation.harness import run_tasks
from sparsepo.models import load_model, load_tokenizer
from sparsepo.sampling.generate import sampling_dtype


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for questions that lm-eval reads")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    model = load_model(options.policy, sampling_dtype(), **settings["loading"])
    found = run_tasks(model, load_tokenizer(options.policy), settings["benchmarks"], options.work)
    made = {"measure": "benchmarks", "splits": {"test": {"": found["measurements"]}}, "notes": found["notes"]}
    write_json(options.out, settings["head"] | made | {"results": found["results"]})


if __name__ == "__main__":
    run(main)
