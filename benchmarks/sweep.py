"""One run of a sweep of DPO over beta in a process of its own, ours or TRL's: imports, loading, training, saving.

    python benchmarks/sweep.py ours FOLDER cache 4   what all of our runs share: the cached states of the reference
    python benchmarks/sweep.py ours FOLDER 0.1 4     one run of 4 pairs a step, with the KL to the reference in its log
    python benchmarks/sweep.py trl FOLDER 0.1 4      one run, which runs the reference itself and logs no KL

FOLDER is what `prepare` writes. Each prints the CPU seconds of its process as JSON. benchmarks/step.py adds them up.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from workloads import Workload, word_tokenizer

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Preference, read_records, write_records
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.training.batching import encode_usable_pairs

BETAS = ("0.01", "0.05", "0.1", "0.5", "1.0")
LEARNING_RATE = 1e-5


def prepare(folder: Path, workload: Workload) -> None:
    """Write the model, a tokenizer with a word for each of its tokens, and the pairs of all steps as texts."""
    _, reference = workload.models()
    size = reference.config.vocab_size
    reference.config.eos_token_id = reference.generation_config.eos_token_id = 0
    reference.save_pretrained(folder / "model")
    word_tokenizer(size).save_pretrained(folder / "model")

    def text(ids: list[int]) -> str:
        return "".join(f" w{token or 1}" for token in ids)

    pairs = [pair for batch in workload.draw(size) for pair in batch]
    rows = [Preference(text(pair.prompt)[1:], text(pair.chosen), text(pair.rejected)) for pair in pairs]
    write_records(folder / "pairs.jsonl", rows)


def ours(folder: Path, what: str, pairs_of_step: int) -> None:
    from sparsepo.training.preference_trainer import PreferenceTrainer
    from sparsepo.training.reference_cache import ReferenceCache, content_hash, write_cache

    config = PreferenceConfig(batch_size=pairs_of_step, micro_batch_size=pairs_of_step, learning_rate=LEARNING_RATE)
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    pairs = read_records(folder / "pairs.jsonl", Preference)
    content = content_hash(folder / "model", pairs, config)
    if what == "cache":
        encoded = encode_usable_pairs(tokenizer, pairs, config, model).pairs
        return write_cache(model, encoded, "states", config, folder / "cache", content)
    work = {"folder": folder / f"ours-{what}/work", "caches": [ReferenceCache.open(folder / "cache", content)]}
    run = {"method": "dpo", "hyper": {"beta": float(what)}, "config": config}
    trainer = PreferenceTrainer(model, None, tokenizer, pairs, **run, **work)
    trainer.train()
    trainer.save(folder / f"ours-{what}/policy")


def trl(folder: Path, what: str, pairs_of_step: int) -> None:
    """Its tokenization is left out: it gets our token ids. Restricted to response positions, as in `peers.trl`."""
    import peers

    policy, reference = (load_model(folder / "model") for _ in range(2))
    tokenizer = load_tokenizer(folder / "model")
    pairs = encode_usable_pairs(tokenizer, read_records(folder / "pairs.jsonl", Preference), PreferenceConfig(), policy)
    batch: dict[str, Any] = {"per_device_train_batch_size": pairs_of_step, "learning_rate": LEARNING_RATE}
    on_cpu = {"use_cpu": True, "bf16": False, "activation_checkpointing": False}
    once = {"num_train_epochs": 1, "save_strategy": "no", "beta": float(what)}
    trainer = peers.dpo_trainer(policy, reference, pairs=pairs.pairs, **batch, **on_cpu, **once)
    with peers.response_positions_only():
        trainer.train()
    trainer.save_model(str(folder / f"trl-{what}/policy"))


def main() -> None:
    who, folder, what, pairs_of_step = sys.argv[1:]
    warnings.simplefilter("ignore")
    {"ours": ours, "trl": trl}[who](Path(folder), what, int(pairs_of_step))
    print(json.dumps(time.process_time()))


if __name__ == "__main__":
    main()
