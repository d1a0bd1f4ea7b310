"""Choose the pairs that an oracle is trained on; one with a model of its own must read tokens as the task's does."""

import argparse
import json
from pathlib import Path

from sparsepo.data.pairing import subsample_prompts
from sparsepo.data.records import Preference, read_records, write_records
from sparsepo.models.loading import load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.token_scores import check_context_length, check_same_tokenizer, folder_context_length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--reference", type=Path, required=True, help="folder of the task's SFT model")
    parser.add_argument("--base", type=Path, required=True, help="folder of the model that the oracle starts from")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    pairs, name = read_records(options.pairs, Preference), f"oracle '{settings['oracle']}' of task '{settings['task']}'"
    if options.base != options.reference:
        folders = options.base, options.reference
        check_same_tokenizer(*map(load_tokenizer, folders), pairs, name)
        limits = settings["max_prompt_tokens"], settings["max_response_tokens"]
        check_context_length(*(folder_context_length(folder) for folder in folders), limits, name)
    chosen = subsample_prompts(pairs, settings["share"], settings["seed"])
    print(f"{name}: {len(chosen)} of {len(pairs)} pairs", flush=True)
    write_records(options.out, chosen)


if __name__ == "__main__":
    run_main(main)
