"""Make preference pairs: sample and score responses of the reference, run its programs, or read existing pairs."""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sparsepo.data.chat import scored_prompt
from sparsepo.data.encoding import Encoder
from sparsepo.data.mbpp_humaneval import STOPS, load_problems
from sparsepo.data.pairing import PairBuilder, best_and_worst, passing_against_failing
from sparsepo.data.preference_formats import read_preferences
from sparsepo.data.prompts import PromptBuilder, PromptLimit
from sparsepo.data.readers import section_name
from sparsepo.data.records import Completion, Prompt, Scored, read_records, write_json, write_records
from sparsepo.evaluation.pass_at_k import run_completions
from sparsepo.evaluation.sandbox import Sandbox
from sparsepo.evaluation.scorers import build_scorer, cut_notes
from sparsepo.generation.generate import check_prompt_lengths, load_backend, sample
from sparsepo.models.loading import folder_context_length, load_tokenizer
from sparsepo.runtime.atomic_folder import weights_file
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache, job_identity, open_cache
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import BuildPreferencesSettings, as_plain

PairMaker = Callable[[list[Prompt], Path], PairBuilder]
"""(prompts, their file) -> the pairs that have these prompts."""


def sampler(options: argparse.Namespace, cache: ResultCache, stops: tuple[str, ...] = ()):
    """(prompts, their file) -> responses of the reference model."""
    settings, sampling = options.settings, options.settings.preferences.sampling
    model, tokenizer = load_backend(options.reference, **settings.loading), load_tokenizer(options.reference)

    def responses(prompts: list[Prompt], path: Path) -> list[Completion]:
        check_prompt_lengths(model, tokenizer, prompts, sampling, path)
        return sample(model, tokenizer, prompts, sampling, stops, cache)

    return responses


def pairs_by_score(options: argparse.Namespace, cache: ResultCache) -> PairMaker:
    """The response of highest against that of lowest score."""
    responses = sampler(options, cache)
    scorer = build_scorer(options.settings.preferences.scorer, options.fitted_scorer)

    def pairs_of(prompts: list[Prompt], path: Path) -> PairBuilder:
        rows = responses(prompts, path)
        rewards = scorer([scored_prompt(row) for row in rows], [row.text for row in rows])
        scored = [Scored.of(row, reward) for row, reward in zip(rows, rewards, strict=True)]
        builder = best_and_worst([(f"{path}: {row.prompt!r}", row) for row in scored])
        return replace(builder, notes=cut_notes(scorer))

    return pairs_of


def pairs_by_tests(options: argparse.Namespace, cache: ResultCache) -> PairMaker:
    """A program that passes its tests against one that fails; each epoch has a pair of its own."""
    settings, responses = options.settings, sampler(options, cache, STOPS["mbpp"])
    problems, epochs = load_problems(as_plain(settings.data)), math.ceil(settings.epochs)

    def pairs_of(prompts: list[Prompt], path: Path) -> PairBuilder:
        rows = responses(prompts, path)
        programs: dict[str, list[tuple[Completion, bool]]] = {}
        with Sandbox.from_config(settings.execution) as sandbox:
            for row, verdict in zip(rows, run_completions(problems, rows, sandbox, cache), strict=True):
                programs.setdefault(row.prompt, []).append((row, verdict.passed))
        return passing_against_failing(programs, epochs, settings.preferences.sampling.seed)

    return pairs_of


def prompt_builder(options: argparse.Namespace) -> PromptBuilder:
    """What makes the same prompts of the user's data as when they were prepared."""
    settings, tokenizer = options.settings, load_tokenizer(options.reference)
    limits = settings.max_prompt_tokens, settings.max_new_tokens, settings.on_long_prompt
    limit = PromptLimit.of(Encoder(tokenizer), folder_context_length(options.reference), *limits)
    return PromptBuilder.of(tokenizer, settings.chat, limit)


def pairs_of_file(from_file: PairBuilder) -> PairMaker:
    """The pairs of the user's own data."""

    def pairs_of(prompts: list[Prompt], path: Path) -> PairBuilder:
        texts = {prompt.prompt for prompt in prompts}
        return PairBuilder([pair for pair in from_file.pairs if pair.prompt in texts])

    return pairs_of


def read_user_data(options: argparse.Namespace, summary: dict) -> dict[str, PairMaker]:
    """Split -> the pairs of the user's own data, of which validation may have a file of its own."""
    section, prompts = as_plain(options.settings.preferences), prompt_builder(options)

    def read(rows: dict, name: str) -> PairMaker:
        from_file = read_preferences(rows, prompts)
        summary[name] = from_file.summary
        origin = section_name(rows)
        print(f"{origin}: {from_file}", flush=True)
        return pairs_of_file(from_file)

    train = read(section, "file")
    own = section["validation"]
    return {"train": train, "validation": train if own is None else read(section | own, "validation_file")}


MAKERS = {"generated": pairs_by_score, "executed": pairs_by_tests}
"""Sources of preferences whose responses are sampled here."""


def main() -> None:
    usage = "reference train validation result-cache out [fitted-scorer]"
    options = stage_parser(__doc__, BuildPreferencesSettings, usage).parse_args()
    settings, preferences, summary = options.settings, options.settings.preferences, {}
    inputs = [weights_file(options.reference), options.train, options.validation]
    cache = open_cache(options.result_cache, job_identity(settings.as_dict(), options.code_version, inputs))
    if preferences.source in MAKERS:
        makers = dict.fromkeys(("train", "validation"), MAKERS[preferences.source](options, cache))
    else:
        makers = read_user_data(options, summary)
    for split, path in (("train", options.train), ("validation", options.validation)):
        prompts = read_records(path, Prompt)
        builder = makers[split](prompts, path)
        if not builder.pairs:
            raise UserError(f"{path}: none of its {len(prompts)} prompts gives a usable pair ({builder})")
        write_records(options.out / f"{split}.jsonl", builder.pairs)
        summary[split] = builder.summary
        print(f"{split}: {builder}", flush=True)
    write_json(options.out / "summary.json", summary)
    cache.delete()


if __name__ == "__main__":
    run_main(main)
