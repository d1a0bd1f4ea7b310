"""A sweep of SparsePO over beta in one process (`training.together`) against one process a run.

    python benchmarks/together.py                   # five values of beta, all weights: CPU time and memory
    python benchmarks/together.py --adapter 16      # LoRA

Both run the scripts of the workflow on a model from scratch. On a GPU time is that of the clock, and memory the GPU's.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sparsepo.runtime.entry_point import run_main

MODEL = {"model_type": "gpt2", "n_layer": 8, "n_embd": 384, "n_head": 6, "n_positions": 256}
VOCABULARY, PROMPT, RESPONSE = 4_000, 48, 32
SCRIPTS = Path(__file__).resolve().parents[1] / "workflow_scripts"


def stages(betas: list[str], adapter: int | None, steps: int, batch_size: int):
    """The stages of a task with these runs."""
    from sparsepo.config import Config
    from sparsepo.workflow.stages import Stages

    training = {"max_prompt_tokens": PROMPT, "max_response_tokens": RESPONSE, "max_steps": steps}
    training |= {"batch_size": batch_size, "micro_batch_size": batch_size // 2, "checkpoint_every": 0}
    training |= {"adapter": {"rank": adapter} if adapter else None, "together": len(betas)}
    task = {
        "model": {"source": "scratch", "config": MODEL, "tokenizer": {"kind": "word", "vocab_size": VOCABULARY}},
        "data": {"source": "preferences", "prompts": {"train": batch_size, "validation": 8, "test": 8}},
        "preferences": {"source": "transcripts", "hub": {"id": "owner/pairs"}},
        "sft": {},
        "methods": {"sparsepo_independent": {"beta": betas}},
        "training": training,
        "evaluation": {},
    }
    return Stages(Config.model_validate({"name": "together", "tasks": {"task": task}}))


def make_inputs(folder: Path, source: dict, pairs: int) -> None:
    """A model and pairs of random words, each a token."""
    from sparsepo.models.loading import fetch_model

    words, draw = [f"w{number}" for number in range(VOCABULARY - 3)], random.Random(0)
    model, tokenizer = fetch_model(source, [" ".join(words)])
    for each in (model, tokenizer):
        each.save_pretrained(folder / "sft")
    lengths = {"prompt": PROMPT, "chosen": RESPONSE - 1, "rejected": RESPONSE - 1}
    texts = ({key: " ".join(draw.choices(words, k=length)) for key, length in lengths.items()} for _ in range(pairs))
    lines = [json.dumps(text | {"chosen_score": 1.0, "rejected_score": 0.0}) for text in texts]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_script(folder: Path, name: str, **options: str | Path) -> tuple[float, float]:
    """Seconds of CPU time, and of the clock, that a script took."""
    common = {"reference": folder / "sft", "pairs": folder / "pairs.jsonl", "config": "{}"}
    words = [word for key, value in (common | options).items() for word in (f"--{key.replace('_', '-')}", str(value))]
    environment = os.environ | ({"MALLOC_ARENA_MAX": "1"} if name == "train_together" else {})  # as in its rule
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *words], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--adapter", type=int, help="rank of a LoRA; without it all weights are trained")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    plan = stages(
        [f"0.{beta}" for beta in range(1, options.runs + 1)], options.adapter, options.steps, options.batch_size
    )
    runs = plan.runs("task", sft=False)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_inputs(folder, plan.config.tasks["task"].model.model_dump(mode="json"), options.batch_size * options.steps)

        def train(where: str, run: str) -> tuple[float, float]:
            out = folder / where / run
            settings = plan.settings("train_policy", "task", run)
            return run_script(folder, "train_policy", settings=settings, out=out, checkpoint=out / "checkpoint")

        apart = [train("apart", run) for run in runs]
        settings, versions = plan.settings("train_together", "task", runs[0]), json.dumps(dict.fromkeys(runs, ""))
        paths = {"runs": folder / "runs", "out": folder / "together.json"}
        together = [run_script(folder, "train_together", settings=settings, code_versions=versions, **paths)]
        together += [train("runs", run) for run in runs]
        records = {
            where: json.loads((folder / where / runs[-1] / "run.json").read_text(encoding="utf-8"))
            for where in ("apart", "runs")
        }
        equal = all(
            (folder / "apart" / run / name).read_bytes() == (folder / "runs" / run / name).read_bytes()
            for run in runs
            for name in ("adapter_model.safetensors" if options.adapter else "model.safetensors", "masks.safetensors")
        )
    on_gpu = bool(records["apart"]["peak_gpu_memory_mb"])
    seconds = [sum(each[on_gpu] for each in parts) for parts in (apart, together)]
    memory = [sum(record["peak_gpu_memory_mb"]) or record["peak_memory_mb"] for record in records.values()]
    print(f"weights of all {len(runs)} runs are equal in every bit: {'yes' if equal else 'NO'}")
    print(f"seconds: {seconds[1]:.1f} together, {seconds[0]:.1f} apart, ratio {seconds[1] / seconds[0]:.2f}")
    print(f"without what each run takes: {together[0][on_gpu]:.1f}")
    print(f"peak memory in MB: {memory[1]} together, {memory[0]} of one, ratio {memory[1] / memory[0]:.2f}")


if __name__ == "__main__":
    run_main(main)
