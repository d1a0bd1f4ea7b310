"""Sample programs of a policy for the problems of the suites, and for validation problems where they choose a point."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.hashes import identity_of
from sparsepo.data.kept import going_on
from sparsepo.data.problems import STOPS, human_eval
from sparsepo.data.records import Prompt, read_records, write_records
from sparsepo.errors import run
from sparsepo.models import load_tokenizer
from sparsepo.sampling.generate import backend_for, check_room, sample


def requests(settings: dict, validation: Path, test: Path) -> list[tuple[str, str, list[Prompt], Path]]:
    """(suite, split, prompts, where they come from) of all that is sampled."""
    found = []
    if "validation" in settings["splits"]:
        found.append(("mbpp", "validation", read_records(validation, Prompt), validation))
    if "mbpp" in settings["suites"]:
        found.append(("mbpp", "test", read_records(test, Prompt)[: settings["problems"]], test))
    if "humaneval" in settings["suites"]:
        prompts = [Prompt(problem.prompt, problem.id) for problem in human_eval()[: settings["problems"]]]
        found.append(("humaneval", "test", prompts, Path("HumanEval")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True, help="prompts")
    parser.add_argument("--test", type=Path, required=True, help="prompts")
    parser.add_argument("--kept", type=Path, required=True, help="file that keeps what is done, should this be killed")
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    inputs = [options.policy / "model.safetensors", options.validation, options.test]
    kept = going_on(options.kept, identity_of(settings, options.code, inputs))
    model = backend_for(options.policy, **settings["loading"])
    tokenizer, made = load_tokenizer(options.policy), []
    for suite, split, prompts, path in requests(settings, options.validation, options.test):
        sampling = SamplingConfig(**settings["sampling"])
        if split == "validation":
            sampling = sampling.model_copy(update={"samples": settings["validation_samples"]})
        check_room(model, tokenizer, prompts, sampling, path)
        rows = sample(model, tokenizer, prompts, sampling, STOPS[suite], kept)
        made += [replace(row, split=split) for row in rows]
    write_records(options.out, made)
    kept.done()


if __name__ == "__main__":
    run(main)
