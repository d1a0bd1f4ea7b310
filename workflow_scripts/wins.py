"""Let a judge compare sampled responses with the chosen ones: the win rate at each temperature."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import Completion, Prompt, read_records, write_json
from sparsepo.evaluation.judges import build_judge
from sparsepo.evaluation.win_rate import win_rate
from sparsepo.runtime.entry_point import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--generations", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, nargs=2, required=True, help="of validation and test")
    parser.add_argument("--answers", type=Path, required=True, help="folder that keeps a judge's answers")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, rows = options.settings, read_records(options.generations, Completion)
    chosen = {prompt.prompt: prompt.reference for path in options.prompts for prompt in read_records(path, Prompt)}
    judge, notes = build_judge(settings["judge"], options.answers), []
    splits: dict[str, dict] = {split: {} for split in settings["splits"]}
    for split in splits:
        for temperature in dict.fromkeys(row.temperature for row in rows if row.split == split):
            these = [row for row in rows if (row.split, row.temperature) == (split, temperature)]
            prompts, texts = [row.prompt for row in these], [row.text for row in these]
            found = win_rate(judge, prompts, texts, [chosen[prompt] for prompt in prompts], prompts)
            splits[split][f"{temperature:g}"] = {"win_rate": found.measurement}
            notes += [f"{split}, temperature {temperature:g}: {note}" for note in found.notes]
    write_json(options.out, settings["head"] | {"measure": "wins", "splits": splits, "notes": notes})


if __name__ == "__main__":
    run_main(main)
