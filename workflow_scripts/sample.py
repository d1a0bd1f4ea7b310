"""Sample responses of a policy to the test prompts."""

import argparse
import json
from pathlib import Path

from sparsepo.config import SamplingConfig
from sparsepo.data.records import Prompt, read_records, write_records
from sparsepo.errors import run
from sparsepo.models import load_model, load_tokenizer
from sparsepo.sampling.generate import check_room, sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    model = load_model(options.policy, **settings["loading"])
    tokenizer, prompts = load_tokenizer(options.policy), read_records(options.prompts, Prompt)
    sampling = SamplingConfig(**settings["sampling"])
    check_room(model, tokenizer, prompts, sampling, options.prompts)
    write_records(options.out, sample(model, tokenizer, prompts, sampling))


if __name__ == "__main__":
    run(main)
