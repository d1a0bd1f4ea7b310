"""Make preference pairs: sample and score responses of the reference model, or read them from the user's file."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from sparsepo.config import SamplingConfig
from sparsepo.data.pairing import Pairing, best_and_worst, preference_file
from sparsepo.data.records import Prompt, Scored, read_records, write_json, write_records
from sparsepo.errors import UserError, run
from sparsepo.evaluation.rewards import build_scorer
from sparsepo.models import load_model, load_tokenizer
from sparsepo.sampling.generate import check_room, sample


def generator(settings: dict, reference: Path) -> Callable[[list[Prompt], Path], Pairing]:
    """(prompts, their file) -> pairs: sample, score, take the best against the worst response of each prompt."""
    model, tokenizer = load_model(reference), load_tokenizer(reference)
    sampling, scorer = SamplingConfig(**settings["sampling"]), build_scorer(settings["scorer"])

    def pairs_of(prompts: list[Prompt], place: Path) -> Pairing:
        check_room(model, tokenizer, prompts, sampling, place)
        rows = sample(model, tokenizer, prompts, sampling)
        rewards = scorer([row.prompt for row in rows], [row.text for row in rows])
        scored = [Scored(row.prompt, row.text, reward, row.ended) for row, reward in zip(rows, rewards, strict=True)]
        return best_and_worst([(f"{place}: {row.prompt!r}", row) for row in scored])

    return pairs_of


def chooser(from_file: Pairing) -> Callable[[list[Prompt], Path], Pairing]:
    """(prompts, their file) -> the pairs of the user's file that have these prompts."""

    def pairs_of(prompts: list[Prompt], place: Path) -> Pairing:
        wanted = {prompt.prompt for prompt in prompts}
        return Pairing([pair for pair in from_file.pairs if pair.prompt in wanted])

    return pairs_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, nargs=2, required=True, help="of train and validation")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, summary = options.settings["preferences"], {}
    if settings["source"] == "generated":
        pairs_of = generator(settings, options.reference)
    else:
        from_file = preference_file(settings["path"], settings["source"])
        summary["file"] = from_file.summary
        print(f"{settings['path']}: {from_file}", flush=True)
        pairs_of = chooser(from_file)
    for split, path in zip(("train", "validation"), options.prompts, strict=True):
        prompts = read_records(path, Prompt)
        made = pairs_of(prompts, path)
        if not made.pairs:
            raise UserError(f"{path}: none of its {len(prompts)} prompts gives a usable pair ({made})")
        write_records(options.out / f"{split}.jsonl", made.pairs)
        summary[split] = made.summary
        print(f"{split}: {made}", flush=True)
    write_json(options.out / "summary.json", summary)


if __name__ == "__main__":
    run(main)
