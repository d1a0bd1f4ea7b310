"""Make the pairs of a round: sample the previous policy, let a judge rank the samples, best against worst."""

import argparse
from dataclasses import replace

from sparsepo.data.chat import scored_prompt
from sparsepo.data.pairing import PairBuilder, best_and_worst
from sparsepo.data.records import Completion, Prompt, Scored, read_records, write_json, write_records
from sparsepo.evaluation.judges import Tournament, build_judge, round_robin
from sparsepo.evaluation.scorers import cut_notes
from sparsepo.generation.generate import check_prompt_lengths, load_backend, sample
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.atomic_folder import weights_file
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache, job_identity, open_cache
from sparsepo.training.iterations import round_seed
from sparsepo.training.token_scores import add_logps
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import BuildRoundPairsSettings


def responses_of(options: argparse.Namespace, cache: ResultCache) -> list[Completion]:
    """Responses of the policy that are not empty, each round's drawn with random numbers of its own."""
    settings, path = options.settings, options.prompts
    sampling = settings.sampling.model_copy(update={"seed": round_seed(settings.seed, options.iteration)})
    prompts, tokenizer = read_records(path, Prompt), load_tokenizer(options.policy)
    model = load_backend(options.policy, **settings.loading)
    check_prompt_lengths(model, tokenizer, prompts, sampling, path)
    return [row for row in sample(model, tokenizer, prompts, sampling, (), cache) if row.text.strip()]


def ranked_pairs(options: argparse.Namespace, rows: list[Completion]) -> tuple[PairBuilder, Tournament]:
    """One pair a prompt, scored by the share of comparisons that each response won; ties are dropped."""
    judge = build_judge(options.settings.judge, options.judge_cache, options.fitted_scorer)
    tournament = round_robin(judge, [scored_prompt(row) for row in rows], [row.text for row in rows])
    scored = [Scored.of(row, won) for row, won in zip(rows, tournament.wins, strict=True)]
    builder = best_and_worst([(f"{options.prompts}: {row.prompt!r}", row) for row in scored])
    return replace(builder, notes=cut_notes(judge)), tournament


def main() -> None:
    usage = "policy prompts iteration result-cache judge-cache out [fitted-scorer]"
    options = stage_parser(__doc__, BuildRoundPairsSettings, usage).parse_args()
    settings, inputs = options.settings, [weights_file(options.policy), options.prompts]
    identity = job_identity([settings.as_dict(), options.iteration], options.code_version, inputs)
    cache = open_cache(options.result_cache, identity)
    rows = responses_of(options, cache)
    builder, tournament = ranked_pairs(options, rows)
    model = load_model(options.policy, **settings.loading)
    pairs, dropped = add_logps(model, load_tokenizer(options.policy), builder.pairs, settings.training)
    print(f"{builder}; {len(pairs)} can train; dropped: {dropped or 'none'}", flush=True)
    if not pairs:
        raise UserError(
            f"{options.prompts}: none of its prompts gives a usable pair in round {options.iteration} ({builder})"
        )
    write_records(options.out / "pairs.jsonl", pairs)
    judged = {"compared": tournament.compared, "without verdict": tournament.unjudged}
    summary = builder.summary | {"iteration": options.iteration, "sampled": len(rows), "judged": judged}
    write_json(options.out / "summary.json", summary | {"pairs": len(pairs), "cannot train": dropped})
    cache.delete()


if __name__ == "__main__":
    run_main(main)
