"""Make a reference model: load it, fine-tune it on the corpus if asked to, save it as a Hugging Face folder."""

import argparse
import os
import time
from pathlib import Path

from sparsepo.data.records import Text, read_records, write_json, write_records
from sparsepo.models.adapters import save_trained
from sparsepo.models.loading import fetch_model, load_model, save_model
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.provenance import run_record
from sparsepo.runtime.result_cache import job_identity
from sparsepo.training.sft_trainer import SFTTrainer
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import TrainSftSettings, as_plain


def start_of(settings: TrainSftSettings, corpus: list[str], folder: Path):
    """(model, tokenizer), with frozen weights in as few bits as the adapter asks for.

    These are read from a hub or a folder tensor by tensor; a model from elsewhere is saved in `folder` first.
    """
    spec, adapter = as_plain(settings.model), settings.sft.adapter if settings.sft else None
    if adapter is None or adapter.quantization == "none":
        return fetch_model(spec, corpus)
    bits = {"quantization": adapter.quantization, "compute": settings.sft.precision}
    if settings.model.source in ("hub", "folder"):
        return fetch_model(spec, corpus, **bits)
    model, tokenizer = fetch_model(spec, corpus)
    save_model(model, tokenizer, folder)
    return load_model(folder, settings.model.dtype, **bits, **settings.loading), tokenizer


def record_of(options: argparse.Namespace, start: float) -> dict:
    """The record of this training; a model of random weights has a seed of its own."""
    settings = options.settings
    seeds = {
        name: getattr(settings, name).seed for name in ("model", "sft") if hasattr(getattr(settings, name), "seed")
    }
    return run_record(options.config, settings.as_dict(), seeds, options.code_version, [options.corpus], start)


def main() -> None:
    start = time.perf_counter()
    options = stage_parser(__doc__, TrainSftSettings, "corpus config checkpoint out").parse_args()
    settings, config, dynamics = options.settings, options.settings.sft, options.out / "dynamics.jsonl"
    corpus = read_records(options.corpus, Text)
    folder = options.checkpoint / "start" / os.environ.get("RANK", "0")
    model, tokenizer = start_of(settings, [text.text for text in corpus], folder)
    print(f"{type(model).__name__}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    if config is None:
        save_trained(model, tokenizer, options.out, None)
        write_records(dynamics, [])
        write_json(options.out / "run.json", record_of(options, start))
        return
    identity = job_identity(settings.as_dict(), options.code_version, [options.corpus])
    folder, seed = options.checkpoint, config.seed
    trainer = SFTTrainer(model, tokenizer, corpus, config=config, folder=folder, seed=seed, identity=identity)
    trainer.train()
    trainer.save(options.out)
    if trainer.is_world_process_zero():
        chosen = {"micro_batch_size": trainer.settings.micro_batch_size}
        write_json(options.out / "run.json", record_of(options, start) | chosen)
    trainer.finish(dynamics)  # last: it deletes the checkpoints


if __name__ == "__main__":
    run_main(main)
