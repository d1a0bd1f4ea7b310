"""Measure a policy on tasks of lm-eval."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import write_json
from sparsepo.evaluation.lm_eval.run import run_tasks
from sparsepo.generation.generate import sampling_dtype
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.result_cache import job_identity, open_cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for questions that lm-eval reads")
    parser.add_argument("--kept", type=Path, required=True, help="file that keeps what is done, should this be killed")
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    kept = open_cache(options.kept, job_identity(settings, options.code, [options.policy / "model.safetensors"]))
    model = load_model(options.policy, sampling_dtype(), **settings["loading"])
    found = run_tasks(model, load_tokenizer(options.policy), settings["benchmarks"], options.work, kept)
    made = {"measure": "benchmarks", "splits": {"test": {"": found["measurements"]}}, "notes": found["notes"]}
    write_json(options.out, settings["head"] | made | {"results": found["results"]})
    kept.delete()


if __name__ == "__main__":
    run_main(main)
