"""Run the sampled programs of a policy in the sandbox: pass@k of each suite."""

import argparse
import json
from pathlib import Path

from sparsepo.data.mbpp_humaneval import load_problems
from sparsepo.data.records import Completion, read_records, write_json
from sparsepo.evaluation.pass_at_k import code_measures, run_completions
from sparsepo.evaluation.sandbox import Sandbox
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.result_cache import job_identity, open_cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True, help="file that keeps what is done, should this be killed")
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, rows = options.settings, read_records(options.programs, Completion)
    problems = load_problems(settings["data"])
    kept = open_cache(options.kept, job_identity(settings, options.code, [options.programs]))
    with Sandbox.from_config(settings["execution"]) as sandbox:
        passed = [verdict.passed for verdict in run_completions(problems, rows, sandbox, kept)]
    splits: dict[str, dict] = {}
    for split in dict.fromkeys(row.split for row in rows):
        for suite in dict.fromkeys(problems[row.id].suite for row in rows if row.split == split):
            found = [
                (row.id, good)
                for row, good in zip(rows, passed, strict=True)
                if row.split == split and problems[row.id].suite == suite
            ]
            splits.setdefault(split, {})[suite] = code_measures(*zip(*found, strict=True), settings["k"])
    write_json(options.out, settings["head"] | {"measure": "code", "splits": splits, "notes": []})
    kept.delete()


if __name__ == "__main__":
    run_main(main)
