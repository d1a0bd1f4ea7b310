"""Train a policy, an oracle, or a round of a policy: one method at one point of its grid with one seed."""

import os
import shutil
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from sparsepo.data.records import Preference, read_json, read_records, write_json
from sparsepo.runtime.atomic_folder import atomic_folder, weights_file
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.provenance import run_record
from sparsepo.runtime.result_cache import file_hash, job_identity
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import TrainPolicySettings

USAGE = """
reference pairs config checkpoint out [policy] [iteration] [validation] [prompts] [cache...] [fitted-scorer]
"""
TRAINED, LOG = "trained", "train.log"
"""Where `train_together` leaves the output of a run, in the folder of the run, and in it the log."""
LOGS = ("dynamics.jsonl", "frontier.jsonl")


def input_files(options: Namespace) -> list[Path]:
    """The files that the result depends on."""
    inputs = [weights_file(options.reference), options.pairs]
    inputs += [options.prompts] if options.prompts else []
    inputs += [weights_file(options.policy)] if options.policy else []
    return inputs + ([options.validation] if options.settings.training.validate_every else [])


def is_trained(folder: Path, options: Namespace) -> bool:
    """Whether a folder has all output of this run: of the same settings, code and input files."""
    if not all((folder / name).is_file() for name in ("run.json", *LOGS)):
        return False
    record, inputs = read_json(folder / "run.json"), {str(path): file_hash(path) for path in input_files(options)}
    expected = {"settings": options.settings.as_dict(), "code": options.code_version, "inputs": inputs}
    return all(record.get(name) == value for name, value in expected.items())


def take_trained(options: Namespace) -> None:
    """Move what was trained together with other runs to its place, and print its log."""
    trained = options.out / TRAINED
    sys.stdout.write((trained / LOG).read_text(encoding="utf-8"))
    (trained / LOG).unlink()
    with atomic_folder(options.out) as place:
        for path in trained.iterdir():
            os.replace(path, place / path.name)
    trained.rmdir()


def train(options: Namespace, sharing: Any | None = None) -> None:
    """Train a run; `sharing`: the SharingRun of one that is trained together with others."""
    # Only here, as a job that takes a run from elsewhere needs neither torch nor a model.
    from sparsepo.evaluation.frontier import frontier_evaluator
    from sparsepo.evaluation.scorers import cut_notes
    from sparsepo.models.adapters import load_policy_and_reference
    from sparsepo.models.loading import folder_context_length, load_tokenizer
    from sparsepo.training.checks import check_start_context
    from sparsepo.training.iterations import round_seed
    from sparsepo.training.preference_trainer import PreferenceTrainer
    from sparsepo.training.reference_cache import ReferenceCache, content_hash
    from sparsepo.training.token_scores import check_same_tokenizer

    settings, config = options.settings, options.settings.training
    seed, begin = round_seed(settings.seed, options.iteration or 0), options.policy or options.reference
    inputs = input_files(options)
    tokenizer, pairs = load_tokenizer(options.reference), read_records(options.pairs, Preference)
    cached = content_hash(options.reference, pairs, config) if options.cache else ""
    other_start = options.policy is not None and options.iteration is None  # a round starts from the one before
    if other_start:
        check_same_tokenizer(load_tokenizer(options.policy), tokenizer, pairs, "the model of 'policy'")
        check_start_context(folder_context_length(options.policy), folder_context_length(options.reference))
    # A cache holds the training pairs only, and no output head.
    runs_reference = not options.cache or config.validate_every > 0 or other_start
    needs_reference = runs_reference or settings.frontier is not None
    load = sharing.load if sharing else load_policy_and_reference
    policy, reference = load(begin, options.reference, config, settings.loading, needs_reference)
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
        config=config.model_copy(update={"together": sharing.number_of_runs}) if sharing else config,
        folder=options.checkpoint,
        seed=seed,
        identity=job_identity(settings.as_dict(), options.code_version, inputs),
        caches=[ReferenceCache.open(index.parent, cached) for index in options.cache],
        validation=read_records(options.validation, Preference) if config.validate_every else [],
        measure=measure,
        starts_as_reference=not other_start,
    )
    if sharing:
        sharing.join(trainer)
    trainer.train()
    trainer.save(options.out)
    start = options.start + (sharing.waited if sharing else 0)
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
    trainer.finish(*(options.out / name for name in LOGS))  # last: it deletes the checkpoints


def main() -> None:
    start = time.perf_counter()
    options = stage_parser(__doc__, TrainPolicySettings, USAGE).parse_args()
    options.start = start
    if is_trained(options.out / TRAINED, options):
        take_trained(options)
    else:
        shutil.rmtree(options.out / TRAINED, ignore_errors=True)
        train(options)


if __name__ == "__main__":
    run_main(main)
