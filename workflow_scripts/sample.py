"""Sample responses of a policy to prompts of the splits and at the temperatures that are asked for."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.hashes import identity_of
from sparsepo.data.kept import going_on
from sparsepo.data.records import Prompt, read_records, write_records
from sparsepo.data.transcripts import turns
from sparsepo.errors import UserError, run
from sparsepo.models import load_tokenizer
from sparsepo.sampling.generate import backend_for, check_room, sample


def wanted(settings: dict, path: Path) -> list[Prompt]:
    """The prompts of a split that are answered. Raises UserError when none is left."""
    prompts = read_records(path, Prompt)
    kept = [prompt for prompt in prompts if not settings["single_turn"] or turns(prompt.prompt) == 1]
    if not kept:
        raise UserError(
            f"{path}: none of its {len(prompts)} prompts is the first turn of a dialogue; set single_turn: false"
        )
    return kept[: settings["prompts"]]


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
    for split in settings["splits"]:
        path = getattr(options, split)
        prompts = wanted(settings, path)
        for temperature in settings["temperatures"]:
            sampling = SamplingConfig(**settings["sampling"], temperature=temperature)
            check_room(model, tokenizer, prompts, sampling, path)
            rows = sample(model, tokenizer, prompts, sampling, kept=kept)
            made += [replace(row, split=split) for row in rows]
    write_records(options.out, made)
    kept.done()


if __name__ == "__main__":
    run(main)
