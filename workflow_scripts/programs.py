"""Sample programs of a policy for the problems of the suites, and for validation problems where they choose a point."""

from collections.abc import Iterator
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.mbpp_humaneval import STOPS, human_eval_problems
from sparsepo.data.records import Prompt, read_records
from sparsepo.generation.cli import SplitRequest, sample_requests
from sparsepo.runtime.entry_point import run_main


def requests(settings: dict, validation: Path, test: Path) -> Iterator[SplitRequest]:
    sampling = SamplingConfig(**settings["sampling"])
    if "validation" in settings["splits"]:
        fewer = sampling.model_copy(update={"samples": settings["validation_samples"]})
        yield SplitRequest("validation", read_records(validation, Prompt), validation, fewer, STOPS["mbpp"])
    if "mbpp" in settings["suites"]:
        prompts = read_records(test, Prompt)[: settings["problems"]]
        yield SplitRequest("test", prompts, test, sampling, STOPS["mbpp"])
    if "humaneval" in settings["suites"]:
        prompts = [Prompt(problem.prompt, problem.id) for problem in human_eval_problems()[: settings["problems"]]]
        yield SplitRequest("test", prompts, Path("HumanEval"), sampling, STOPS["humaneval"])


def main() -> None:
    sample_requests(__doc__, requests)


if __name__ == "__main__":
    run_main(main)
