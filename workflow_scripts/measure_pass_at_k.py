"""Run the sampled programs of a policy in the sandbox: pass@k of each suite."""

from sparsepo.data.mbpp_humaneval import load_problems, plus_problems
from sparsepo.data.records import Completion, read_records, write_json
from sparsepo.evaluation.pass_at_k import code_measures, run_completions
from sparsepo.evaluation.sandbox import Sandbox
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.result_cache import job_identity, open_cache
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import MeasurePassAtKSettings, as_plain


def main() -> None:
    options = stage_parser(__doc__, MeasurePassAtKSettings, "programs result-cache out").parse_args()
    settings, rows = options.settings, read_records(options.programs, Completion)
    problems = load_problems(as_plain(settings.data))
    identity = job_identity(settings.as_dict(), options.code_version, [options.programs, *settings.plus.values()])
    cache = open_cache(options.result_cache, identity)
    with Sandbox.from_config(settings.execution) as sandbox:
        passed = [verdict.passed for verdict in run_completions(problems, rows, sandbox, cache)]
        plus: dict[str, dict] = {}
        for suite, path in settings.plus.items():
            harder = plus_problems(problems, suite, path)
            of_suite = [row for row in rows if row.split == "test" and row.id in harder]
            results = run_completions(harder, of_suite, sandbox, cache)
            names = [f"{row.id}+" for row in of_suite]
            plus[f"{suite}_plus"] = code_measures(names, [result.passed for result in results], settings.k)
    splits: dict[str, dict] = {}
    for split in dict.fromkeys(row.split for row in rows):
        for suite in dict.fromkeys(problems[row.id].suite for row in rows if row.split == split):
            verdicts_of_suite = [
                (row.id, is_right)
                for row, is_right in zip(rows, passed, strict=True)
                if row.split == split and problems[row.id].suite == suite
            ]
            # pass@k of validation problems only chooses a point of a grid, and has fewer programs
            ks = [k for k in settings.k if split == "test" or k <= settings.validation_samples]
            splits.setdefault(split, {})[suite] = code_measures(*zip(*verdicts_of_suite, strict=True), ks)
    splits["test"] |= plus
    write_json(options.out, settings.header | {"measure": "pass_at_k", "splits": splits, "notes": []})
    cache.delete()


if __name__ == "__main__":
    run_main(main)
