"""Compute once what the runs of a sweep need of the frozen reference."""

import argparse
import json
from pathlib import Path

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Preference, read_records
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.batching import encode_usable_pairs
from sparsepo.training.reference_cache import content_hash, write_cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--reference", type=Path, required=True, help="folder of the reference model")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--kind", required=True, help="states, logps or weights~NORMALISATION~KINDS")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = PreferenceConfig(**options.settings["training"])
    reference = load_model(options.reference, **options.settings["loading"])
    tokenizer = load_tokenizer(options.reference)
    records = read_records(options.pairs, Preference)
    encoded = encode_usable_pairs(tokenizer, records, config, reference)
    of = content_hash(options.reference, records, config)
    write_cache(reference, encoded.pairs, options.kind, config, options.out, of)


if __name__ == "__main__":
    run_main(main)
