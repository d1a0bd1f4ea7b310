"""Make preference pairs: sample and score responses of the reference model, run its programs, or read what there is."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.mbpp_humaneval import STOPS, load_problems
from sparsepo.data.pairing import PairBuilder, best_and_worst, passing_against_failing
from sparsepo.data.preference_formats import read_preferences
from sparsepo.data.records import Completion, Prompt, Scored, read_records, write_json, write_records
from sparsepo.evaluation.pass_at_k import run_completions
from sparsepo.evaluation.sandbox import Sandbox
from sparsepo.evaluation.scorers import build_scorer
from sparsepo.generation.generate import check_prompt_lengths, load_backend, sample
from sparsepo.models.loading import load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache, job_identity, open_cache

Maker = Callable[[list[Prompt], Path], PairBuilder]
"""(prompts, their file) -> the pairs that have these prompts."""


def sampler(
    settings: dict, reference: Path, kept: ResultCache, stops: tuple[str, ...] = ()
) -> Callable[..., list[Completion]]:
    """(prompts, their file) -> responses of the reference model."""
    model, tokenizer = load_backend(reference, **settings["loading"]), load_tokenizer(reference)
    sampling = SamplingConfig(**settings["preferences"]["sampling"])

    def sampled(prompts: list[Prompt], place: Path) -> list[Completion]:
        check_prompt_lengths(model, tokenizer, prompts, sampling, place)
        return sample(model, tokenizer, prompts, sampling, stops, kept)

    return sampled


def generated(settings: dict, reference: Path, kept: ResultCache) -> Maker:
    """The response of highest against that of lowest score."""
    sampled, scorer = sampler(settings, reference, kept), build_scorer(settings["preferences"]["scorer"])

    def pairs_of(prompts: list[Prompt], place: Path) -> PairBuilder:
        rows = sampled(prompts, place)
        rewards = scorer([row.prompt for row in rows], [row.text for row in rows])
        scored = [Scored(row.prompt, row.text, reward, row.ended) for row, reward in zip(rows, rewards, strict=True)]
        return best_and_worst([(f"{place}: {row.prompt!r}", row) for row in scored])

    return pairs_of


def executed(settings: dict, reference: Path, kept: ResultCache) -> Maker:
    """A program that passes its tests against one that fails; each epoch has a pair of its own."""
    sampled = sampler(settings, reference, kept, STOPS["mbpp"])
    problems, epochs = load_problems(settings["data"]), math.ceil(settings["epochs"])

    def pairs_of(prompts: list[Prompt], place: Path) -> PairBuilder:
        rows = sampled(prompts, place)
        groups: dict[str, list[tuple[Completion, bool]]] = {}
        with Sandbox.from_config(settings["execution"]) as sandbox:
            for row, verdict in zip(rows, run_completions(problems, rows, sandbox, kept), strict=True):
                groups.setdefault(row.prompt, []).append((row, verdict.passed))
        return passing_against_failing(groups, epochs, settings["preferences"]["sampling"]["seed"])

    return pairs_of


def chosen(from_file: PairBuilder) -> Maker:
    """The pairs of the user's own data."""

    def pairs_of(prompts: list[Prompt], place: Path) -> PairBuilder:
        wanted = {prompt.prompt for prompt in prompts}
        return PairBuilder([pair for pair in from_file.pairs if pair.prompt in wanted])

    return pairs_of


MAKERS = {"generated": generated, "executed": executed}
"""Sources whose pairs are made here."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, nargs=2, required=True, help="of train and validation")
    parser.add_argument("--kept", type=Path, required=True, help="file that keeps what is done, should this be killed")
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, summary = options.settings["preferences"], {}
    inputs = [options.reference / "model.safetensors", *options.prompts]
    kept = open_cache(options.kept, job_identity(options.settings, options.code, inputs))
    if settings["source"] in MAKERS:
        pairs_of = MAKERS[settings["source"]](options.settings, options.reference, kept)
    else:
        from_file = read_preferences(settings)
        summary["file"] = from_file.summary
        print(f"{settings['path'] or settings['hub']['id']}: {from_file}", flush=True)
        pairs_of = chosen(from_file)
    for split, path in zip(("train", "validation"), options.prompts, strict=True):
        prompts = read_records(path, Prompt)
        made = pairs_of(prompts, path)
        if not made.pairs:
            raise UserError(f"{path}: none of its {len(prompts)} prompts gives a usable pair ({made})")
        write_records(options.out / f"{split}.jsonl", made.pairs)
        summary[split] = made.summary
        print(f"{split}: {made}", flush=True)
    write_json(options.out / "summary.json", summary)
    kept.delete()


if __name__ == "__main__":
    run_main(main)
