"""Train one policy on samples of its own towards a target: one method at one point of its grid with one seed."""

import argparse
import json
import time
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Prompt, read_records, write_json
from sparsepo.evaluation.frontier import frontier_evaluator
from sparsepo.evaluation.scorers import build_scorer
from sparsepo.fdpg.target import Target, contains_word, fit_target, usable_prompts
from sparsepo.fdpg.trainer import OnPolicyTrainer
from sparsepo.methods.registry import METHODS
from sparsepo.models.adapters import load_policy_and_reference
from sparsepo.models.loading import context_length, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.provenance import run_record
from sparsepo.runtime.result_cache import job_identity


def target_of(settings: dict, config: PreferenceConfig, reference, tokenizer, prompts: list[Prompt]) -> Target:
    """The target of a reward at a temperature beta, or of a feature with a wanted mean."""
    hyper, own = settings["hyper"], settings["on_policy"]
    if "beta" in hyper:
        return Target("reward", build_scorer(settings["scorer"]), 1 / hyper["beta"])
    feature = contains_word(own["words"]) if own["words"] else build_scorer(settings["scorer"])
    sampling = SamplingConfig(**settings["draws"], samples=own["fit_samples"], seed=settings["seed"])
    kept, _ = usable_prompts(tokenizer, prompts, config, sampling, context_length(reference))
    return fit_target(reference, tokenizer, kept[: own["fit_prompts"]], feature, hyper["target_mean"], sampling)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--config", type=json.loads, required=True, help="of the task, whole, for the record")
    parser.add_argument("--reference", type=Path, required=True, help="folder of the reference model")
    parser.add_argument("--train", type=Path, required=True, help="prompts to train on")
    parser.add_argument("--prompts", type=Path, required=True, help="sampled for points of the frontier")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    start, settings = time.perf_counter(), options.settings
    own = METHODS[settings["method"]].training_overrides(settings["hyper"])
    config = PreferenceConfig(**settings["training"]).changed(own)
    inputs = [options.reference / "model.safetensors", options.train, options.prompts]
    tokenizer = load_tokenizer(options.reference)
    policy, reference = load_policy_and_reference(options.reference, options.reference, config, settings["loading"])
    sampling = SamplingConfig(**settings["draws"], samples=settings["on_policy"]["samples"])
    prompts = read_records(options.train, Prompt)
    trainer = OnPolicyTrainer(
        policy,
        reference,
        tokenizer,
        prompts,
        target=target_of(settings, config, reference, tokenizer, prompts),
        divergence=settings["hyper"]["divergence"],
        sampling=sampling,
        config=config,
        folder=options.checkpoint,
        seed=settings["seed"],
        identity=job_identity(settings, options.code, inputs),
        measure=frontier_evaluator(settings, reference, tokenizer, options.prompts) if config.frontier_every else None,
    )
    trainer.train()
    trainer.save(options.out)
    record = run_record(options.config, settings, {"training": settings["seed"]}, options.code, inputs, start)
    record |= {
        "prompts": {"trained": len(trainer.prompts), "dropped": trainer.dropped},
        "target": {"of": trainer.target.name, "scale": trainer.target.scale},
        "kept_step": trainer.state.global_step,
        "training_seconds": round(record["seconds"] - trainer.measuring_seconds, 2),
    }
    write_json(options.out / "run.json", record)
    trainer.finish(options.out / "dynamics.jsonl", options.out / "frontier.jsonl")  # last: it deletes the checkpoints


if __name__ == "__main__":
    run_main(main)
