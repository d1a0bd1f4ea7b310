"""What the stages share that sample a policy: each says only which prompts it wants answered, and how."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.records import Prompt, write_records
from sparsepo.generation.generate import backend_for, check_room, sample
from sparsepo.models.loading import load_tokenizer
from sparsepo.runtime.result_cache import identity_of, open_cache


@dataclass(frozen=True)
class Request:
    """Prompts of a split (`test` or `validation`) and how they are answered; `source` names them in errors."""

    split: str
    prompts: list[Prompt]
    source: Path
    sampling: SamplingConfig
    stops: Sequence[str] = ()


def sample_requests(title: str, requests: Callable[[dict, Path, Path], Iterable[Request]]) -> None:
    """The command line of a stage: samples what `requests(settings, validation, test)` asks for.

    What is done is kept in a file, so that a killed job goes on after its last whole prompt.
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
    kept = open_cache(options.kept, identity_of(options.settings, options.code, inputs))
    model = backend_for(options.policy, **options.settings["loading"])
    tokenizer, made = load_tokenizer(options.policy), []
    for asked in requests(options.settings, options.validation, options.test):
        check_room(model, tokenizer, asked.prompts, asked.sampling, asked.source)
        rows = sample(model, tokenizer, asked.prompts, asked.sampling, asked.stops, kept)
        made += [replace(row, split=asked.split) for row in rows]
    write_records(options.out, made)
    kept.done()
