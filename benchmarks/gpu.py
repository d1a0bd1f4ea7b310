"""On a GPU: whole training steps of a 1.4B and of an 8B model against TRL's DPO, and the output head by itself.

    python benchmarks/gpu.py                     # every part: some minutes; needs a GPU with 80 GB
    python benchmarks/gpu.py --only head         # one

Random weights in the shapes of Pythia 1.4B (all weights trained, float32 under bfloat16 autocast) and of Llama 3 8B
(LoRA, frozen weights in bfloat16, checkpointing); prompts and responses of 256 to 1,024 tokens, so that a sequence has
512 to 2,048. Ours is SparsePO with independent masks, TRL's is DPO, which computes neither masks nor KL.
"""

import argparse
import gc
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from unittest import mock

import head
import torch
from peers import BETA, as_trl, dpo_trainer
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM
from workloads import token_pair

from sparsepo.config.training import AdapterConfig
from sparsepo.data.collation import collate_pairs, split_into_micro_batches
from sparsepo.data.encoding import TokenPair
from sparsepo.models import adapters
from sparsepo.models.architecture import compile_blocks, decoder_layers
from sparsepo.objective import kernels
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective

RANK = 16
SPAN = 256, 1024
PRODUCT = 8192


@dataclass(frozen=True)
class Part:
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


PARTS = {
    "pythia-1.4b": Part(pythia, torch.float32, lora=False),
    "llama-3-8b": Part(llama, torch.bfloat16, lora=True),
}
HEADS = {"pythia-1.4b": (4096, 2048, 50_304), "llama-3-8b": (4096, 4096, 128_256)}
"""Rows, width, vocabulary."""


# --- contenders: each makes (micro-batches of a step -> None), which leaves gradients, and the parameters to train


Contender = Callable[[Part, Any], tuple[Callable[[Sequence[TokenPair]], None], list[Tensor]]]


def sparsepo(part: Part, device: Any, compiles: bool = False) -> tuple[Callable[[Sequence[TokenPair]], None], list]:
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


def trl(part: Part, device: Any, compiles: bool = False) -> tuple[Callable[[Sequence[TokenPair]], None], list]:
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
    if compiles:
        for model in filter(None, (policy, trainer.ref_model)):
            compile_blocks(model)
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
}


def made(part: Part, device: Any) -> Any:
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


def needed(part: Part, model: Any, pairs: Sequence[TokenPair], shared: bool) -> float:
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


def steps_of(part: Part, vocabulary: int) -> list[list[TokenPair]]:
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


def measure(part: Part, contender: str, device: Any) -> Measured:
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


def profile(part: Part, contender: str, device: Any) -> str:
    """The kernels of a step by the time that they take."""
    step, _ = CONTENDERS[contender](part, device)
    with torch.device("meta"):
        vocabulary = part.model().config.vocab_size
    first, second, third, *_ = steps_of(part, vocabulary)
    step(first)
    step(second)
    synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        step(third)
        synchronize(device)
    return found.key_averages().table(sort_by="self_cuda_time_total", row_limit=28, max_name_column_width=90)


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

    yield "matrix products alone", milliseconds(products)
    for mode in ("forward", "recompute"):
        yield f"ours, {mode}", milliseconds(whole(lambda at, mode=mode: head.ours(at, mode)))
    terms, gradient = kernels._terms_of_rows, kernels._write_logit_grads
    with mock.patch.object(terms, "run", terms.function), mock.patch.object(gradient, "run", gradient.function):
        for mode in ("forward", "recompute"):
            yield f"ours, {mode}, not compiled", milliseconds(whole(lambda at, mode=mode: head.ours(at, mode)))
    yield "TRL's log-probs and divergence", milliseconds(whole(head.trl))


def milliseconds(work: Callable[[], None], repeats: int = 10) -> float:
    for _ in range(3):
        work()
    found = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end))
    return statistics.median(found)


def fastest_product() -> float:
    """FLOP/s of a large product of random bfloat16 matrices: what this card reaches at best."""
    a, b = (torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * PRODUCT**3 / (milliseconds(lambda: a @ b) / 1e3)


# --- the table


def say(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def report(name: str, contenders: Sequence[str], peak: float) -> None:
    """One line a contender, as soon as it is measured; one that does not fit says so."""
    device = torch.device("cuda")
    for contender in contenders:
        try:
            found = measure(PARTS[name], contender, device)
        except torch.OutOfMemoryError as error:
            say(name, contender, "out of memory", str(error).splitlines()[0][:80], "", "")
            continue
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        cells = f"{found.seconds:.3f}", f"{found.tokens:,.0f}", f"{found.rate / peak:.1%}", f"{found.peak / 2**30:.1f}"
        say(name, contender, *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["head", *PARTS], default=["head", *PARTS])
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--profile", action="store_true", help="kernels of a step instead of the table")
    parser.add_argument("--peak", type=float, default=989e12, help="dense bfloat16 FLOP/s of the card by its maker")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("no GPU is here; benchmarks/step.py measures on a CPU")
    warnings.simplefilter("ignore")
    card = torch.cuda.get_device_name()
    print(
        f"{card}, torch {torch.__version__}; a product of {PRODUCT}: {fastest_product() / 1e12:.0f} TFLOP/s", flush=True
    )
    if "head" in options.only:
        for name, shape in HEADS.items():
            for what, time_taken in head_rows("cuda", *shape):
                say(f"head of {name}", what, f"{time_taken:.2f} ms")
            torch.cuda.empty_cache()
    if options.profile:
        for name, contender in product(filter(PARTS.get, options.only), options.contenders):
            print(f"{name}, {contender}", profile(PARTS[name], contender, torch.device("cuda")), sep="\n", flush=True)
        return
    say("model", "contender", "s a step", "tokens/s", "MFU", "peak GiB")
    for name in PARTS:
        if name in options.only:
            report(name, options.contenders, options.peak)


if __name__ == "__main__":
    run_main(main)
