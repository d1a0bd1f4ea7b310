"""Measure generated summaries: ROUGE, BERTScore, self-BLEU, EDNA, length."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import Completion, Prompt, read_records, write_json
from sparsepo.evaluation.summarization import build_summary_measures
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--generations", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, nargs=3, required=True, help="of train, validation and test")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, rows = options.settings, read_records(options.generations, Completion)
    train, *held_out = (read_records(path, Prompt) for path in options.prompts)
    references = {prompt.prompt: prompt.reference for prompts in held_out for prompt in prompts}
    measure = build_summary_measures(settings["summaries"], [prompt.reference for prompt in train])
    splits: dict[str, dict] = {split: {} for split in settings["splits"]}
    for split in splits:
        for temperature in dict.fromkeys(row.temperature for row in rows if row.split == split):
            samples: dict[str, list[str]] = {}
            for row in rows:
                if (row.split, row.temperature) == (split, temperature):
                    samples.setdefault(row.prompt, []).append(row.text)
            chosen = [references[prompt] for prompt in samples]
            splits[split][f"{temperature:g}"] = measure(list(samples), chosen, list(samples.values()))
    write_json(options.out, settings["head"] | {"measure": "summaries", "splits": splits, "notes": []})


if __name__ == "__main__":
    run_main(main)
