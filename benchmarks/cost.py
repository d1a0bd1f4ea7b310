"""What the cost model says of a few training steps against what they take: FLOPs, peak memory, disk.

    python benchmarks/cost.py                       # every row; the one of 8 bits needs bitsandbytes
    python benchmarks/cost.py --only lora           # one

Each number is taken in a process of its own, of a model from scratch on pairs that are as long as the limits allow, so
that nothing but the formulas is tested. The FLOPs are those of torch.utils.flop_counter, with plain attention.
"""

import argparse
import json
import random
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from sparsepo.runtime.errors import run

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
HEAD = ("row", "GFLOP a step", "told", "ratio", "memory MB", "told", "ratio", "checkpoint MB", "told", "ratio")


def trainer(name: str, folder: Path) -> Any:
    """A trainer of this row's settings: texts of random words, each a token, as long as the limits allow."""
    from sparsepo.config.training import PreferenceConfig, SftConfig
    from sparsepo.data.records import Preference, Text
    from sparsepo.models.adapters import clone_sharing_weights
    from sparsepo.models.loading import fetch_model
    from sparsepo.training.preference_trainer import PreferenceTrainer
    from sparsepo.training.sft_trainer import SFTTrainer

    words = [f"w{number}" for number in range(VOCABULARY - 3)]
    spec = {"source": "scratch", "config": MODEL, "seed": 0, "dtype": "float32"}
    spec |= {"tokenizer": {"kind": "word", "vocab_size": VOCABULARY}}
    model, tokenizer = fetch_model(spec, [" ".join(words)])
    draw = random.Random(0)
    text = lambda length: " ".join(draw.choices(words, k=length))  # noqa: E731
    common = {"batch_size": PAIRS, "max_steps": STEPS, "checkpoint_every": 1, **ROWS[name]}
    if name == "sft":
        config = SftConfig(max_tokens=PROMPT + RESPONSE, **common)
        corpus = [Text(text(PROMPT + RESPONSE)) for _ in range(PAIRS * STEPS)]
        return SFTTrainer(model, tokenizer, corpus, config=config, folder=folder)
    config = PreferenceConfig(max_prompt_tokens=PROMPT, max_response_tokens=RESPONSE, **common)
    reference = clone_sharing_weights(model) if config.adapter else fetch_model(spec, [" ".join(words)])[0]
    pairs = [Preference(text(PROMPT), " " + text(RESPONSE), " " + text(RESPONSE)) for _ in range(PAIRS * STEPS)]
    return PreferenceTrainer(
        model, reference, tokenizer, pairs, method="sparsepo_independent", config=config, folder=folder
    )


def measured(name: str, what: str) -> float:
    """FLOPs a step, bytes of memory above what the process holds before there is a model, or bytes of a checkpoint."""
    import torch
    from harness import peak_above
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        if what == "memory":
            trainer("sft", Path(place) / "imports")  # whatever is imported late
            return peak_above(lambda: trainer(name, folder).train())
        made = trainer(name, folder)
        if what == "disk":
            made.train()
            return sum(path.stat().st_size for path in (folder / f"checkpoint-{STEPS}").iterdir())
        torch.manual_seed(0)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            made.train()
        return counter.get_total_flops() / STEPS


def told(name: str) -> dict[str, float]:
    """The same by the formulas."""
    from sparsepo.config.models import ScratchModel, TokenizerConfig
    from sparsepo.config.training import PreferenceConfig, SftConfig
    from sparsepo.workflow.cost import formulas
    from sparsepo.workflow.cost.shapes import shape_of

    words = TokenizerConfig(vocab_size=VOCABULARY)
    shape = shape_of(ScratchModel(source="scratch", config=MODEL, tokenizer=words))
    settings = (SftConfig if name == "sft" else PreferenceConfig)(**ROWS[name])
    checkpoint = formulas.checkpoint_bytes(shape, settings, keeps_best=False) / formulas.KEPT_CHECKPOINTS
    if name == "sft":
        tokens = PAIRS * (PROMPT + RESPONSE)
        flops = PAIRS * formulas.text_flops(shape, PROMPT + RESPONSE, settings)
        held = {"tokens": tokens, "logits": tokens * VOCABULARY, "reference": False}
    else:
        rows = min(formulas.ROWS + 2 * RESPONSE, 2 * PAIRS * RESPONSE)
        flops = PAIRS * formulas.pair_flops(shape, PROMPT, RESPONSE, settings, reference=True)
        held = {"tokens": PAIRS * (PROMPT + 2 * RESPONSE), "logits": 2 * rows * VOCABULARY, "reference": True}
    return {"flops": flops, "memory": formulas.training_bytes(shape, settings, **held), "disk": checkpoint}


def line(name: str) -> tuple[str, ...]:
    """A row of the table, its three numbers each measured in a process of its own."""
    from harness import LEAST, in_process

    cells, unit = [name], {"flops": 1e9, "memory": 1e6, "disk": 1e6}
    for what, number in told(name).items():
        found = in_process(__file__, "--row", name, "--what", what, **LEAST, ACCELERATE_USE_CPU="true")
        cells += [f"{found / unit[what]:,.0f}", f"{number / unit[what]:,.0f}", f"{number / found:.2f}"]
    return tuple(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measured(options.row, options.what)))
        return
    for cells in chain((HEAD, ("---",) * len(HEAD)), map(line, options.only)):
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    run(main)
