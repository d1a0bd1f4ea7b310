"""Make the pairs of a round: sample the former policy, let a judge rank the samples, best against worst."""

import argparse
import json
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import PreferenceConfig
from sparsepo.data.pairing import PairBuilder, best_and_worst
from sparsepo.data.records import Completion, Prompt, Scored, read_records, write_json, write_records
from sparsepo.evaluation.judges import Tournament, build_judge, round_robin
from sparsepo.generation.generate import check_prompt_lengths, load_backend, sample
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache, job_identity, open_cache
from sparsepo.training.iterations import round_seed
from sparsepo.training.token_scores import add_logps


def sampled(settings: dict, policy: Path, path: Path, iteration: int, kept: ResultCache) -> list[Completion]:
    """Responses of the policy that are not empty, each round's drawn with numbers of its own."""
    sampling = SamplingConfig(**settings["sampling"], seed=round_seed(settings["seed"], iteration))
    prompts, tokenizer = read_records(path, Prompt), load_tokenizer(policy)
    model = load_backend(policy, **settings["loading"])
    check_prompt_lengths(model, tokenizer, prompts, sampling, path)
    return [row for row in sample(model, tokenizer, prompts, sampling, (), kept) if row.text.strip()]


def ranked(settings: dict, rows: list[Completion], answers: Path, place: Path) -> tuple[PairBuilder, Tournament]:
    """One pair a prompt, scored by the share of games that each response won; ties are dropped."""
    played = round_robin(
        build_judge(settings["judge"], answers), [row.prompt for row in rows], [row.text for row in rows]
    )
    scored = [Scored(row.prompt, row.text, won, row.ended) for row, won in zip(rows, played.wins, strict=True)]
    return best_and_worst([(f"{place}: {row.prompt!r}", row) for row in scored]), played


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--policy", type=Path, required=True, help="folder of the policy of the round before")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--iteration", type=int, required=True)
    parser.add_argument("--kept", type=Path, required=True, help="file that keeps what is done, should this be killed")
    parser.add_argument("--answers", type=Path, required=True, help="folder that keeps a judge's answers")
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, inputs = options.settings, [options.policy / "model.safetensors", options.prompts]
    kept = open_cache(options.kept, job_identity([settings, options.iteration], options.code, inputs))
    rows = sampled(settings, options.policy, options.prompts, options.iteration, kept)
    made, played = ranked(settings, rows, options.answers, options.prompts)
    config, model = PreferenceConfig(**settings["training"]), load_model(options.policy, **settings["loading"])
    pairs, dropped = add_logps(model, load_tokenizer(options.policy), made.pairs, config)
    print(f"{made}; {len(pairs)} can train; dropped: {dropped or 'none'}", flush=True)
    if not pairs:
        raise UserError(
            f"{options.prompts}: none of its prompts gives a usable pair in round {options.iteration} ({made})"
        )
    write_records(options.out / "pairs.jsonl", pairs)
    judged = {"compared": played.compared, "without verdict": played.unjudged}
    summary = made.summary | {"iteration": options.iteration, "sampled": len(rows), "judged": judged}
    write_json(options.out / "summary.json", summary | {"pairs": len(pairs), "cannot train": dropped})
    kept.delete()


if __name__ == "__main__":
    run_main(main)
