"""The command line of the stages that sample a policy; each stage only says which prompts are answered, and how."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.records import Prompt, write_records
from sparsepo.generation.generate import check_prompt_lengths, load_backend, sample
from sparsepo.models.loading import load_tokenizer
from sparsepo.runtime.result_cache import job_identity, open_cache


@dataclass(frozen=True)
class SplitRequest:
    """Prompts of a split (`test` or `validation`) and how they are answered; `source` names them in errors."""

    split: str
    prompts: list[Prompt]
    source: Path
    sampling: SamplingConfig
    stops: Sequence[str] = ()


def sample_requests(title: str, requests: Callable[[dict, Path, Path], Iterable[SplitRequest]]) -> None:
    """Samples the responses that `requests(settings, validation, test)` asks for, and writes them to `--out`.

    Finished batches are kept in a file, so that a killed job continues after its last whole batch.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True, help="prompts")
    parser.add_argument("--test", type=Path, required=True, help="prompts")
    parser.add_argument("--kept", type=Path, required=True, help="file that keeps what is done, should this be killed")
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    inputs = [options.policy / "model.safetensors", options.validation, options.test]
    cache = open_cache(options.kept, job_identity(options.settings, options.code, inputs))
    model = load_backend(options.policy, **options.settings["loading"])
    tokenizer = load_tokenizer(options.policy)
    completions = []
    for request in requests(options.settings, options.validation, options.test):
        check_prompt_lengths(model, tokenizer, request.prompts, request.sampling, request.source)
        rows = sample(model, tokenizer, request.prompts, request.sampling, request.stops, cache)
        completions += [replace(row, split=request.split) for row in rows]
    write_records(options.out, completions)
    cache.delete()
