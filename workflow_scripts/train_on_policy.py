"""Train a policy on samples of its own towards a target: one method at one point of its grid with one seed."""

import time
from pathlib import Path

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Prompt, read_records, write_json
from sparsepo.evaluation.frontier import frontier_evaluator
from sparsepo.evaluation.scorers import build_scorer, cut_notes
from sparsepo.fdpg.target import Target, contains_word, fit_target, usable_prompts
from sparsepo.fdpg.trainer import OnPolicyTrainer
from sparsepo.methods.registry import METHODS
from sparsepo.models.adapters import load_policy_and_reference
from sparsepo.models.limits import context_length
from sparsepo.models.loading import load_tokenizer
from sparsepo.runtime.atomic_folder import weights_file
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.provenance import run_record
from sparsepo.runtime.result_cache import job_identity
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import TrainOnPolicySettings


def target_of(
    settings: TrainOnPolicySettings,
    fitted_scorer: Path | None,
    config: PreferenceConfig,
    reference,
    tokenizer,
    prompts: list[Prompt],
) -> Target:
    """The target of a reward at a temperature beta, or of a feature with a wanted mean."""
    hyper, own = settings.hyper, settings.on_policy
    scorer = build_scorer(settings.scorer, fitted_scorer) if settings.scorer else None
    if "beta" in hyper:
        return Target("reward", scorer, 1 / hyper["beta"])
    feature = contains_word(own.words) if own.words else scorer
    sampling = settings.sampling.model_copy(update={"samples": own.fit_samples, "seed": settings.seed})
    prompts, _ = usable_prompts(tokenizer, prompts, config, sampling, context_length(reference))
    return fit_target(reference, tokenizer, prompts[: own.fit_prompts], feature, hyper["target_mean"], sampling)


def main() -> None:
    start = time.perf_counter()
    usage = "reference train prompts config checkpoint out [fitted-scorer]"
    options = stage_parser(__doc__, TrainOnPolicySettings, usage).parse_args()
    settings, scorer = options.settings, options.fitted_scorer
    config = settings.training.changed(METHODS[settings.method].training_overrides(settings.hyper))
    inputs = [weights_file(options.reference), options.train, options.prompts]
    tokenizer, prompts = load_tokenizer(options.reference), read_records(options.train, Prompt)
    policy, reference = load_policy_and_reference(options.reference, options.reference, config, settings.loading)
    target, measure = target_of(settings, scorer, config, reference, tokenizer, prompts), None
    if settings.frontier:
        measure = frontier_evaluator(reference, tokenizer, options.prompts, scorer, **dict(settings.frontier))
    trainer = OnPolicyTrainer(
        policy,
        reference,
        tokenizer,
        prompts,
        target=target,
        divergence=settings.hyper["divergence"],
        sampling=settings.sampling.model_copy(update={"samples": settings.on_policy.samples}),
        config=config,
        folder=options.checkpoint,
        seed=settings.seed,
        identity=job_identity(settings.as_dict(), options.code_version, inputs),
        measure=measure,
    )
    trainer.train()
    trainer.save(options.out)
    seeds = {"training": settings.seed}
    record = run_record(options.config, settings.as_dict(), seeds, options.code_version, inputs, start)
    record |= {
        "prompts": {"trained": len(trainer.prompts), "dropped": trainer.dropped},
        "target": {"of": trainer.target.name, "scale": trainer.target.scale},
        "kept_step": trainer.state.global_step,
        "micro_batch_size": trainer.settings.micro_batch_size,
        "training_seconds": round(record["seconds"] - trainer.measuring_seconds, 2),
    }
    notes = cut_notes(target.value, *([measure.scorer] if measure else []))
    write_json(options.out / "run.json", record | ({"notes": notes} if notes else {}))
    trainer.finish(options.out / "dynamics.jsonl", options.out / "frontier.jsonl")  # last: it deletes the checkpoints


if __name__ == "__main__":
    run_main(main)
