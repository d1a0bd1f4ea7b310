"""The memory that jobs ask for against the peak of a few training steps.

    python benchmarks/cost.py                       # every row; the one of 8 bits needs bitsandbytes
    python benchmarks/cost.py --only lora           # one

Each is measured in a process of its own, of a model from scratch on texts that are as long as the limits allow.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from sparsepo.runtime.entry_point import run_main

MODEL = {"model_type": "gpt2", "n_layer": 8, "n_embd": 384, "n_head": 6, "n_positions": 256}
VOCABULARY, PROMPT, RESPONSE, PAIRS, STEPS = 4_000, 48, 32, 8, 2
ROWS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "checkpointing": {"gradient_checkpointing": True},
    "lora": {"adapter": {"rank": 16}},
    "sft": {},
    "8-bit optimiser": {"optimizer": "adamw_8bit"},
}
HEAD = ("row", "memory MB", "estimated", "ratio")


def task(name: str) -> Any:
    """The config of this row."""
    from sparsepo.config import TaskConfig

    common = {"batch_size": PAIRS, "max_steps": STEPS, **ROWS[name]}
    sections = {
        "model": {"source": "scratch", "config": MODEL, "tokenizer": {"kind": "word", "vocab_size": VOCABULARY}},
        "data": {"source": "preferences", "prompts": {"train": PAIRS * STEPS, "validation": 8, "test": 8}},
        "preferences": {"source": "transcripts", "hub": {"id": "owner/pairs"}},
        "sft": {"max_tokens": PROMPT + RESPONSE, **common},
        "methods": {"sparsepo_independent": {"beta": "0.1"}},
        "training": {"max_prompt_tokens": PROMPT, "max_response_tokens": RESPONSE, **common},
        "evaluation": {},
    }
    return TaskConfig.model_validate(sections)


def trainer(name: str, folder: Path) -> Any:
    """A trainer of this row on texts of random words, each a token."""
    from sparsepo.data.records import Preference, Text
    from sparsepo.models.adapters import clone_sharing_weights
    from sparsepo.models.loading import fetch_model
    from sparsepo.training.preference_trainer import PreferenceTrainer
    from sparsepo.training.sft_trainer import SFTTrainer

    config, words = task(name), [f"w{number}" for number in range(VOCABULARY - 3)]
    source, draw = config.model.model_dump(mode="json"), random.Random(0)
    model, tokenizer = fetch_model(source, [" ".join(words)])
    text = lambda length: " ".join(draw.choices(words, k=length))  # noqa: E731
    if name == "sft":
        corpus = [Text(text(PROMPT + RESPONSE)) for _ in range(PAIRS * STEPS)]
        return SFTTrainer(model, tokenizer, corpus, config=config.sft, folder=folder)
    reference = clone_sharing_weights(model) if config.training.adapter else fetch_model(source, [" ".join(words)])[0]
    pairs = [Preference(text(PROMPT), " " + text(RESPONSE), " " + text(RESPONSE)) for _ in range(PAIRS * STEPS)]
    settings = {"method": "sparsepo_independent", "config": config.training, "folder": folder}
    return PreferenceTrainer(model, reference, tokenizer, pairs, **settings)


def measured(name: str) -> float:
    """Bytes of memory above what the process holds before there is a model."""
    from harness import peak_above

    with tempfile.TemporaryDirectory() as folder:
        trainer("sft", Path(folder) / "imports")  # whatever is imported late
        return peak_above(lambda: trainer(name, Path(folder) / "run").train())


def estimated(name: str) -> float:
    """The same by the formula, without the margin."""
    from sparsepo.workflow.resources import FLOAT, TaskNeeds

    needs = TaskNeeds(task(name))
    need = needs.train_sft() if name == "sft" else needs.train_policy()
    return need.memory + FLOAT * needs.size.parameters


def main() -> None:
    from harness import LEAST, in_process

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measured(options.row)))
        return
    for cells in (HEAD, ("---",) * len(HEAD)):
        print("| " + " | ".join(cells) + " |", flush=True)
    for name in options.only:
        peak = in_process(__file__, "--row", name, **LEAST, ACCELERATE_USE_CPU="true")
        estimate = estimated(name)
        print(f"| {name} | {peak / 1e6:,.0f} | {estimate / 1e6:,.0f} | {estimate / peak:.2f} |", flush=True)


if __name__ == "__main__":
    run_main(main)
