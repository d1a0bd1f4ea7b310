"""Score every response token of the pairs of both splits by an oracle, for the masks that read such scores."""

import argparse
import json
from pathlib import Path

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Preference, read_records, write_json, write_records
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.token_scores import add_token_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--oracle", type=Path, required=True, help="folder of the trained oracle")
    parser.add_argument("--base", type=Path, required=True, help="folder of the model that it started from")
    parser.add_argument("--pairs", type=Path, nargs=2, required=True, help="of train and validation")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    config = PreferenceConfig(**settings["training"])
    oracle = load_model(options.oracle, **settings["oracle"])
    base = load_model(options.base, **settings["loading"])
    tokenizer, summary = load_tokenizer(options.oracle), {"parameters": oracle.num_parameters()}
    for split, path in zip(("train", "validation"), options.pairs, strict=True):
        scored = add_token_scores(oracle, base, tokenizer, read_records(path, Preference), config)
        write_records(options.out / f"{split}.jsonl", scored)
        usable = sum(pair.chosen_values is not None for pair in scored)
        summary[split] = {"scored": usable, "not": len(scored) - usable}
    write_json(options.out / "summary.json", summary)


if __name__ == "__main__":
    run_main(main)
