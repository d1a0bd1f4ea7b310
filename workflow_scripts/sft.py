"""Make the reference model: fetch it, fine-tune it on the corpus if asked to, save it as a Hugging Face folder."""

import argparse
import json
import os
import time
from pathlib import Path

from sparsepo.config.training import SftConfig
from sparsepo.data.records import Text, read_records, write_json, write_text
from sparsepo.models.loading import fetch_model, load_model, save_model
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.provenance import run_record
from sparsepo.runtime.result_cache import job_identity
from sparsepo.training.sft_trainer import SFTTrainer


def quantization_kwargs(model, tokenizer, settings: dict, folder: Path):
    """The model with its maps in as few bits as the adapter asks for; they are made as a folder is loaded."""
    adapter = settings["sft"]["adapter"]
    if adapter is None or adapter["quantization"] == "none":
        return model
    save_model(model, tokenizer, folder)
    bits = {"quantization": adapter["quantization"], "compute": settings["sft"]["precision"]} | settings["loading"]
    return load_model(folder, settings["model"]["dtype"], **bits)


def record_of(options: argparse.Namespace, start: float) -> dict:
    """What made this reference; a model of random weights has a seed of its own."""
    settings = options.settings
    seeds = {name: settings[name]["seed"] for name in ("model", "sft") if "seed" in (settings[name] or {})}
    inputs = [options.corpus, *options.model]
    return run_record(options.config, settings, seeds, options.code, inputs, start)


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--config", type=json.loads, required=True, help="of the task, whole, for the record")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="files of a model folder of the user")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--code", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, dynamics = options.settings, options.out / "dynamics.jsonl"
    corpus = read_records(options.corpus, Text)
    model, tokenizer = fetch_model(settings["model"], [text.text for text in corpus])
    print(f"{type(model).__name__}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    if settings["sft"] is None:
        save_model(model, tokenizer, options.out)
        write_text(dynamics, "")
        write_json(options.out / "run.json", record_of(options, start))
        return
    config = SftConfig(**settings["sft"])
    identity = job_identity(settings, options.code, [options.corpus])
    where = {"folder": options.checkpoint, "seed": config.seed, "identity": identity}
    model = quantization_kwargs(model, tokenizer, settings, options.checkpoint / "start" / os.environ.get("RANK", "0"))
    trainer = SFTTrainer(model, tokenizer, corpus, config=config, **where)
    trainer.train()
    trainer.save(options.out)
    if trainer.is_world_process_zero():
        write_json(options.out / "run.json", record_of(options, start))
    trainer.finish(dynamics)  # last: it deletes the checkpoints


if __name__ == "__main__":
    run_main(main)
