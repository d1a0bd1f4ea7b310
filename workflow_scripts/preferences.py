"""Make preference pairs: sample and score responses of the reference model, or read them from the user's file."""

import argparse
import json
from pathlib import Path

from sparsepo.config import SamplingConfig
from sparsepo.data.pairing import Pairing, best_and_worst, preference_file
from sparsepo.data.records import Prompt, Scored, read_records, write_json, write_records
from sparsepo.errors import UserError, run
from sparsepo.evaluation.rewards import build_scorer
from sparsepo.models import load_model, load_tokenizer
from sparsepo.sampling.generate import check_room, sample


def generated(settings: dict, reference: Path, prompts: list[Prompt], place: Path) -> Pairing:
    """Sample, score, and take the best against the worst response of each prompt."""
    model, tokenizer = load_model(reference), load_tokenizer(reference)
    sampling = SamplingConfig(**settings["sampling"])
    check_room(model, tokenizer, prompts, sampling, place)
    rows = sample(model, tokenizer, prompts, sampling)
    rewards = build_scorer(settings["scorer"])([row.prompt for row in rows], [row.text for row in rows])
    scored = [Scored(row.prompt, row.text, reward, row.ended) for row, reward in zip(rows, rewards, strict=True)]
    return best_and_worst([(f"{place}: {row.prompt!r}", row) for row in scored])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, nargs=2, required=True, help="of train and validation")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, summary = options.settings["preferences"], {}
    from_file = None if settings["source"] == "generated" else preference_file(settings["path"], settings["source"])
    if from_file is not None:
        summary["file"] = from_file.summary
        print(f"{settings['path']}: {from_file}", flush=True)
    for split, path in zip(("train", "validation"), options.prompts, strict=True):
        prompts = read_records(path, Prompt)
        if from_file is None:
            made = generated(settings, options.reference, prompts, path)
        else:
            wanted = {prompt.prompt for prompt in prompts}
            made = Pairing([pair for pair in from_file.pairs if pair.prompt in wanted])
        if not made.pairs:
            raise UserError(f"{path}: none of its {len(prompts)} prompts gives a usable pair ({made})")
        write_records(options.out / f"{split}.jsonl", made.pairs)
        summary[split] = made.summary
        print(f"{split}: {made}", flush=True)
    write_json(options.out / "summary.json", summary)


if __name__ == "__main__":
    run(main)
