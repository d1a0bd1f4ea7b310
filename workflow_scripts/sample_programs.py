"""Sample programs of a policy for the problems of the suites, and for validation problems where they choose a point."""

from collections.abc import Iterator
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.mbpp_humaneval import STOPS, human_eval_problems
from sparsepo.data.records import Prompt, read_records, write_records
from sparsepo.generation.requests import SplitRequest, sample_requests
from sparsepo.runtime.atomic_folder import weights_file
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.result_cache import job_identity, open_cache
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import SampleProgramsSettings


def requests(settings: SampleProgramsSettings, validation: Path, test: Path) -> Iterator[SplitRequest]:
    code = settings.code

    def human_eval(split: str, sampling: SamplingConfig) -> SplitRequest:
        prompts = [Prompt(problem.prompt, problem.id) for problem in human_eval_problems()[: code.problems]]
        return SplitRequest(split, prompts, Path("HumanEval"), sampling, STOPS["humaneval"])

    if "validation" in settings.splits:
        fewer = code.sampling.model_copy(update={"samples": code.validation_samples})
        if code.validation_suite == "humaneval":
            yield human_eval("validation", fewer)
        else:
            yield SplitRequest("validation", read_records(validation, Prompt), validation, fewer, STOPS["mbpp"])
    if "mbpp" in code.suites:
        prompts = read_records(test, Prompt)[: code.problems]
        yield SplitRequest("test", prompts, test, code.sampling, STOPS["mbpp"])
    if "humaneval" in code.suites:
        yield human_eval("test", code.sampling)


def main() -> None:
    options = stage_parser(__doc__, SampleProgramsSettings, "policy validation test result-cache out").parse_args()
    settings, inputs = options.settings, [weights_file(options.policy), options.validation, options.test]
    cache = open_cache(options.result_cache, job_identity(settings.as_dict(), options.code_version, inputs))
    wanted = requests(settings, options.validation, options.test)
    write_records(options.out, sample_requests(wanted, options.policy, settings.loading, cache))
    cache.delete()


if __name__ == "__main__":
    run_main(main)
