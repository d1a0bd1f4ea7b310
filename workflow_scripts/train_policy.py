"""Train a policy, an oracle, or a round of a policy: one method at one point of its grid with one seed."""

import time

from sparsepo.data.records import Preference, read_records, write_json
from sparsepo.evaluation.frontier import frontier_evaluator
from sparsepo.evaluation.scorers import cut_notes
from sparsepo.models.adapters import load_policy_and_reference
from sparsepo.models.loading import folder_context_length, load_tokenizer
from sparsepo.runtime.atomic_folder import weights_file
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.provenance import run_record
from sparsepo.runtime.result_cache import job_identity
from sparsepo.training.checks import check_start_context
from sparsepo.training.iterations import round_seed
from sparsepo.training.preference_trainer import PreferenceTrainer
from sparsepo.training.reference_cache import ReferenceCache, content_hash
from sparsepo.training.token_scores import check_same_tokenizer
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import TrainPolicySettings

USAGE = """
reference pairs config checkpoint out [policy] [iteration] [validation] [prompts] [cache...] [fitted-scorer]
"""


def main() -> None:
    start = time.perf_counter()
    options = stage_parser(__doc__, TrainPolicySettings, USAGE).parse_args()
    settings, config = options.settings, options.settings.training
    seed, begin = round_seed(settings.seed, options.iteration or 0), options.policy or options.reference
    inputs = [weights_file(options.reference), options.pairs]
    inputs += [options.prompts] if options.prompts else []
    inputs += [weights_file(options.policy)] if options.policy else []
    inputs += [options.validation] if config.validate_every else []
    tokenizer, pairs = load_tokenizer(options.reference), read_records(options.pairs, Preference)
    cached = content_hash(options.reference, pairs, config) if options.cache else ""
    other_start = options.policy is not None and options.iteration is None  # a round starts from the one before
    if other_start:
        check_same_tokenizer(load_tokenizer(options.policy), tokenizer, pairs, "the model of 'policy'")
        check_start_context(folder_context_length(options.policy), folder_context_length(options.reference))
    # A cache holds the training pairs only, and no output head.
    runs_reference = not options.cache or config.validate_every > 0 or other_start
    needs_reference = runs_reference or settings.frontier is not None
    policy, reference = load_policy_and_reference(begin, options.reference, config, settings.loading, needs_reference)
    measure, places = None, (options.prompts, options.fitted_scorer)
    if settings.frontier:
        measure = frontier_evaluator(reference, tokenizer, *places, **dict(settings.frontier))
    trainer = PreferenceTrainer(
        policy,
        reference if runs_reference else None,
        tokenizer,
        pairs,
        method=settings.method,
        hyper=settings.hyper,
        config=config,
        folder=options.checkpoint,
        seed=seed,
        identity=job_identity(settings.as_dict(), options.code_version, inputs),
        caches=[ReferenceCache.open(index.parent, cached) for index in options.cache],
        validation=read_records(options.validation, Preference) if config.validate_every else [],
        measure=measure,
        starts_as_reference=not other_start,
    )
    trainer.train()
    trainer.save(options.out)
    record = run_record(options.config, settings.as_dict(), {"training": seed}, options.code_version, inputs, start)
    record |= {
        "pairs": {"trained": len(trainer.train_dataset), "dropped": trainer.dropped},
        "kept_step": trainer.kept_step,
        "micro_batch_size": trainer.settings.micro_batch_size,
        "training_seconds": round(record["seconds"] - trainer.measuring_seconds, 2),
    }
    if trainer.is_world_process_zero():
        notes = cut_notes(measure.scorer) if measure else []
        write_json(options.out / "run.json", record | ({"notes": notes} if notes else {}))
    trainer.finish(options.out / "dynamics.jsonl", options.out / "frontier.jsonl")  # last: it deletes the checkpoints


if __name__ == "__main__":
    run_main(main)
