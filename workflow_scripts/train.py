"""Train one policy, or an oracle: one method at one point of its grid with one seed."""

import argparse
import json
import time
from pathlib import Path

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Preference, read_records, write_json
from sparsepo.evaluation.frontier import frontier_evaluator
from sparsepo.models.adapters import load_policy_and_reference
from sparsepo.models.loading import load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.provenance import run_record
from sparsepo.runtime.result_cache import job_identity
from sparsepo.training.iterations import round_seed
from sparsepo.training.preference_trainer import PreferenceTrainer
from sparsepo.training.reference_cache import ReferenceCache, content_hash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--config", type=json.loads, required=True, help="of the task, whole, for the record")
    parser.add_argument("--reference", type=Path, required=True, help="folder of the reference model")
    parser.add_argument("--policy", type=Path, help="folder of the model to start from, unless it is the reference")
    parser.add_argument("--iteration", type=int, default=0, help="of a training in rounds, counted from 1")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--validation", type=Path, help="pairs to validate on; an oracle has none")
    parser.add_argument("--prompts", type=Path, help="sampled for points of the frontier; an oracle has none")
    parser.add_argument("--cache", type=Path, nargs="*", default=[], help="of the reference, instead of running it")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    start, settings = time.perf_counter(), options.settings
    config = PreferenceConfig(**settings["training"])
    begin, seed = options.policy or options.reference, round_seed(settings["seed"], options.iteration)
    inputs = [options.reference / "model.safetensors", options.pairs]
    inputs += [options.prompts] if options.prompts else []
    inputs += [options.policy / "model.safetensors"] if options.policy else []
    inputs += [options.validation] if config.validate_every else []
    tokenizer, pairs = load_tokenizer(options.reference), read_records(options.pairs, Preference)
    of = content_hash(options.reference, pairs, config) if options.cache else ""
    runs = not options.cache or config.validate_every > 0  # the cache holds the training pairs only
    referred = runs or config.frontier_every > 0
    policy, reference = load_policy_and_reference(begin, options.reference, config, settings["loading"], referred)
    trainer = PreferenceTrainer(
        policy,
        reference if runs else None,
        tokenizer,
        pairs,
        method=settings["method"],
        hyper=settings["hyper"],
        config=config,
        folder=options.checkpoint,
        seed=seed,
        identity=job_identity(settings, options.code, inputs),
        caches=[ReferenceCache.open(folder, of) for folder in options.cache],
        validation=read_records(options.validation, Preference) if config.validate_every else [],
        measure=frontier_evaluator(settings, reference, tokenizer, options.prompts) if config.frontier_every else None,
    )
    trainer.train()
    trainer.save(options.out)
    record = run_record(options.config, settings, {"training": seed}, options.code, inputs, start)
    record |= {
        "pairs": {"trained": len(trainer.train_dataset), "dropped": trainer.dropped},
        "kept_step": trainer.kept_step,
        "training_seconds": round(record["seconds"] - trainer.measuring_seconds, 2),
    }
    if trainer.is_world_process_zero():
        write_json(options.out / "run.json", record)
    trainer.finish(options.out / "dynamics.jsonl", options.out / "frontier.jsonl")  # last: it deletes the checkpoints


if __name__ == "__main__":
    run_main(main)
