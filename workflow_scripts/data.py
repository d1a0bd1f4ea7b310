"""Make a task's prompts, its SFT corpus, and the labelled documents for a scorer."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import write_json, write_records
from sparsepo.data.sources import Cutter, first_words, make_data, token_cutter
from sparsepo.evaluation.sandbox import check_sandbox
from sparsepo.runtime.entry_point import run_main


def cutter(settings: dict) -> Cutter:
    """What cuts the openings of documents: the tokenizer of the model, or words where there is none yet."""
    if settings["data"]["source"] != "texts" or settings["model"]["source"] == "scratch":
        return first_words
    from sparsepo.models.loading import fetch_tokenizer

    return token_cutter(fetch_tokenizer(settings["model"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = options.settings
    if settings["data"]["source"] == "problems":  # before hours of sampling
        check_sandbox(settings["execution"]["unsafe_execution"])
    made = make_data(settings["data"], settings["preferences"], cutter(settings))
    for split, prompts in made.prompts.items():
        write_records(options.out / "prompts" / f"{split}.jsonl", prompts)
    write_records(options.out / "corpus.jsonl", made.corpus)
    write_records(options.out / "labelled.jsonl", made.labelled)
    summary = {split: len(prompts) for split, prompts in made.prompts.items()}
    summary |= {"corpus": len(made.corpus), "labelled": len(made.labelled)}
    write_json(options.out / "data.json", {"config": settings["name"]} | summary)
    print(summary)


if __name__ == "__main__":
    run_main(main)
