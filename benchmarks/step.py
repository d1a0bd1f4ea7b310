"""Our training step against the authors' math and TRL's DPO: time and peak memory, as ratios with goals.

    python benchmarks/step.py                       every row, two processes at a time if two cores and 21 GiB are free;
                                                    those in bfloat16 only on a CPU that has instructions for it
    python benchmarks/step.py --only hh-float32     one

The row `sandbox` is another: programs a second of the sandbox, see benchmarks/sandbox.py.

One CPU thread, gradients included, optimiser not. Nothing is downloaded. Each row names how ours got its gradients:
`forward` (fastest) or `recompute` (smallest).
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checksums
import head
import psutil
import sandbox
import sweep
import torch
from harness import (
    LEAST,
    Finding,
    in_child,
    in_process,
    interleaved,
    median_ratio,
    peak_above,
    table,
    total_ratio,
    warm_up,
)
from peers import ours, published, trl
from workloads import PLAIN, SHORT, Workload, by_length, hh_lengths, smollm2, token_pair

from sparsepo.data.collation import LAYOUTS
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError

HEAD = {"rows": 512, "width": 576, "vocabulary": 49_152}
QUIET = 0.9
"""Share of a core below which a time is told to be doubtful: CPU time grows when caches and memory are shared."""
ROOMY = 21 * 2**30
"""Bytes that two rows need together at most."""
FIRST = "memory-hh-float32", "memory-checkpointed-bfloat16", "head-float32", "head-bfloat16", "memory-mixed-bfloat16"
"""The first of these needs 18 GiB: it runs beside the others, which together take as long and little memory each."""


@dataclass(frozen=True)
class Experiment:
    """What is compared, and for each peer the ratio ours / peer to reach.

    quantity: `time` of a step, median of batches; `total` time where the peer groups batches by length; `memory`, the
    peak above the models and their gradients; `head`, time of the output head alone; `sweep`, time of five runs with
    imports, loading and saving, and of what they share, of which a batch is a step.
    """

    quantity: str
    workload: Workload
    gradients: str
    goals: dict[str, float] = field(default_factory=dict)

    def claim(self, peer: str) -> str:
        at, checkpointed = self.workload, ", checkpointing" if self.workload.checkpointing else ""
        if self.quantity == "head":
            return f"head time / {peer}: {HEAD['rows']} rows, {at.dtype}"
        if self.quantity == "sweep":
            runs = f"{len(sweep.BETAS)} betas, {at.batches} steps of {at.pairs} pairs"
            return f"sweep / {peer}: {at.model} {at.dtype}, {at.lengths}, {runs}"
        grouped = " grouped by length" if self.quantity == "total" else ""
        return f"{self.quantity} / {peer}{grouped}: {at.model} {at.dtype}, {at.lengths}, {at.pairs} pairs{checkpointed}"


def _time(model: str, dtype: str, lengths: str, batches: int, to_published: float, to_trl: float) -> Experiment:
    workload = Workload(model, dtype, lengths, batches=batches)
    return Experiment("time", workload, "forward", {"published": to_published, "trl": to_trl})


def _memory(workload: Workload, to_published: float, to_trl: float) -> Experiment:
    return Experiment("memory", workload, "recompute", {"published": to_published, "trl": to_trl})


def _small(model: str, dtype: str, checkpointing: bool = False) -> Workload:
    return Workload(model, dtype, "mixed", batches=1, checkpointing=checkpointing)


EXPERIMENTS = {
    "mixed-float32": _time("smollm2", "float32", "mixed", 1, 0.45, 0.60),
    "mixed-bfloat16": _time("smollm2", "bfloat16", "mixed", 1, 0.45, 0.60),
    "wide-float32": _time("wide", "float32", "mixed", 1, 0.30, 0.55),
    "hh-float32": _time("smollm2", "float32", "hh", 1, 0.30, 0.40),
    "hh-grouped": Experiment("total", Workload("smollm2", "float32", "hh", batches=3), "forward", {"trl": 0.55}),
    "memory-mixed-float32": _memory(_small("smollm2", "float32"), 0.35, 0.55),
    "memory-mixed-bfloat16": _memory(_small("smollm2", "bfloat16"), 0.35, 0.55),
    "memory-checkpointed-float32": _memory(_small("smollm2", "float32", True), 0.15, 0.40),
    "memory-checkpointed-bfloat16": _memory(_small("smollm2", "bfloat16", True), 0.15, 0.40),
    "memory-wide-float32": _memory(_small("wide", "float32"), 0.13, 0.55),
    "head-float32": Experiment("head", Workload("head", "float32", "", batches=3), "forward", {"trl": 0.30}),
    "head-bfloat16": Experiment("head", Workload("head", "bfloat16", "", batches=3), "forward", {"trl": 0.30}),
    "sweep-float32": Experiment("sweep", Workload("smollm2", "float32", "hh", batches=3), "forward", {"trl": 0.60}),
    "memory-hh-float32": _memory(Workload("smollm2", "float32", "hh", pairs=8, batches=1), 0.20, 0.36),
}


SANDBOX, CHECKSUMS = "sandbox", "checksums"


# --- one measurement: contender -> a number for each batch


def contender(name: str, experiment: Experiment, policy: Any, reference: Any) -> Callable[[Sequence], Callable]:
    """A run for `interleaved`: a whole step, then the gradients are dropped."""
    make = {"ours": lambda *models: ours(*models, experiment.gradients), "published": published, "trl": trl}[name]
    step = make(policy, reference)

    def run(pairs: Sequence) -> Callable[[], None]:
        step(pairs).backward()
        return lambda: policy.zero_grad(set_to_none=True)

    run([SHORT])()
    return run


def time_steps(experiments: dict[str, Experiment]) -> dict[str, dict[str, list[float]]]:
    """Row by row, for rows whose models are the same. Each contender has taken the longest batch before one counts."""
    first, *_ = experiments.values()
    policy, reference = first.workload.models()
    own = deepcopy(policy), deepcopy(reference)  # our attention stays switched on in a model; the peers share theirs
    names = ["ours", *dict.fromkeys(peer for experiment in experiments.values() for peer in experiment.goals)]
    runs = {name: contender(name, first, *(own if name == "ours" else (policy, reference))) for name in names}
    rounds = {name: rounds_of(experiment, policy.config.vocab_size) for name, experiment in experiments.items()}
    batches = (batch for row in rounds.values() for turn in row for batch in turn.values())
    warm_up(runs, max(batches, key=LAYOUTS["padded"].num_positions))
    return {name: interleaved({who: runs[who] for who in row[0]}, row) for name, row in rounds.items()}


def rounds_of(experiment: Experiment, vocabulary: int) -> list[dict[str, list]]:
    if experiment.quantity == "total":
        return grouped_rounds(experiment.workload, vocabulary)
    return [dict.fromkeys(["ours", *experiment.goals], pairs) for pairs in experiment.workload.draw(vocabulary)]


def grouped_rounds(workload: Workload, vocabulary: int) -> list[dict[str, list]]:
    """The same pairs for both: the peer's batches hold pairs of like length, ours are shuffled."""
    rng = random.Random(2)
    grouped = [
        [token_pair(lengths, vocabulary, rng) for lengths in batch]
        for batch in by_length(hh_lengths(), workload.pairs, workload.batches)
    ]
    mixed = rng.sample(sum(grouped, []), workload.pairs * workload.batches)
    shuffled = [mixed[at : at + workload.pairs] for at in range(0, len(mixed), workload.pairs)]
    return [{"ours": own, "trl": theirs} for own, theirs in zip(shuffled, grouped, strict=True)]


def time_heads(experiment: Experiment) -> dict[str, list[float]]:
    at = head.inputs(**HEAD, dtype=experiment.workload.dtype)

    def tidy() -> None:
        at.hidden.grad = at.weight.grad = None

    def run(value: Callable[[head.Inputs], torch.Tensor]) -> Callable:
        return lambda _: value(at).backward() or tidy

    runs = {"ours": run(lambda at: head.ours(at, experiment.gradients)), "trl": run(head.trl)}
    warm_up(runs, None)
    return interleaved(runs, [dict.fromkeys(runs)] * experiment.workload.batches)


def peaks(experiment: Experiment) -> dict[str, list[int]]:
    """Bytes for each batch, above the models and the policy's gradients, which are there before; a process each."""
    policy, reference = experiment.workload.models()

    def of(name: str) -> list[int]:
        run = contender(name, experiment, policy, reference)
        for weight in policy.parameters():
            weight.grad = torch.zeros_like(weight)
        found = []
        for pairs in experiment.workload.draw(policy.config.vocab_size):
            found.append(peak_above(lambda pairs=pairs: run(pairs)))
            policy.zero_grad(set_to_none=False)
        return found

    return {name: in_child(lambda name=name: of(name)) for name in ("ours", *experiment.goals)}


def time_sweeps(experiment: Experiment) -> dict[str, list[float]]:
    """CPU seconds of all processes of each contender's sweep."""
    at, seconds = experiment.workload, {}
    with tempfile.TemporaryDirectory() as folder:
        sweep.prepare(Path(folder), at)
        for who in ("ours", *experiment.goals):
            steps = [*(["cache"] if who == "ours" else []), *sweep.BETAS]
            processes = (in_process(sweep.__file__, who, folder, what, str(at.pairs)) for what in steps)
            seconds[who] = [sum(processes)]
    return seconds


# --- processes and the table


def processes(names: Sequence[str]) -> list[list[str]]:
    """The rows by the process that measures them: those of time share one, as far as their models are the same."""
    shared: dict[Any, list[str]] = {}
    for name in names:
        experiment = EXPERIMENTS[name]
        models = experiment.workload.model, experiment.workload.dtype
        shared.setdefault(models if experiment.quantity in ("time", "total") else name, []).append(name)
    return list(shared.values())


def measure(names: Sequence[str]) -> tuple[dict[str, dict[str, list[float]]], float]:
    """What was measured, and the share of a core that the clock's thread got (1 for memory, which does not mind,
    and for a sweep, whose processes do the work)."""
    quantity = EXPERIMENTS[names[0]].quantity
    memory = quantity == "memory"
    said = in_process(__file__, "--measure", *names, **(LEAST if memory else {"OMP_NUM_THREADS": "1"}))
    return said["measured"], 1.0 if quantity in ("memory", "sweep") else said["share"]


def findings(name: str, measured: dict[str, list[float]], share: float = 1.0) -> list[Finding]:
    experiment = EXPERIMENTS[name]
    ratio = total_ratio if experiment.quantity == "total" else median_ratio
    mode = experiment.gradients + ("" if share >= QUIET else f", busy machine ({share:.0%} of a core)")
    return [
        Finding(name, experiment.claim(peer), ratio(measured["ours"], measured[peer]), goal, mode)
        for peer, goal in experiment.goals.items()
    ]


def report(names: Sequence[str]) -> dict[str, list[Finding]]:
    """Measure and say at once what came out; the whole table follows."""
    found, share = measure(names)
    for name, measured in found.items():
        scale, unit = (2**20, "MiB") if EXPERIMENTS[name].quantity == "memory" else (1, "s")
        parts = [f"{who} {sum(values) / len(values) / scale:.4g} {unit}" for who, values in measured.items()]
        print(f"{name}: " + ", ".join(parts), file=sys.stderr, flush=True)
    return {name: findings(name, measured, share) for name, measured in found.items()}


def attempt(names: Sequence[str], report: Callable = report) -> dict[str, list[Finding] | None]:
    """None where the rows failed: the others are worth having, and the failure is told at once and at the end."""
    try:
        return report(names)
    except UserError as error:
        print(f"{', '.join(names)}: {error}", file=sys.stderr, flush=True)
        return dict.fromkeys(names)


def measured_here(names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    experiments = {name: EXPERIMENTS[name] for name in names}
    alone = {"memory": peaks, "head": time_heads, "sweep": time_sweeps}.get(experiments[names[0]].quantity)
    return {name: alone(at) for name, at in experiments.items()} if alone else time_steps(experiments)


def measured_rows(wanted: Sequence[str], jobs: int | None) -> dict[str, list[Finding] | None]:
    """Process by process, or two at a time where there is room."""
    roomy = (os.cpu_count() or 1) > 1 and psutil.virtual_memory().available > ROOMY
    done: dict[str, list[Finding] | None] = {}
    for names in ([name for name in FIRST if name in wanted], [name for name in wanted if name not in FIRST]):
        with ThreadPoolExecutor(jobs or (2 if roomy else 1)) as pool:
            for found in pool.map(attempt, processes(names)):
                done |= found
    return done


def bfloat16_cost() -> float:
    """Time of a bfloat16 product in times that of a float32 one: above 1 on a CPU without instructions for it."""
    torch.set_num_threads(1)
    factors = {dtype: torch.ones(768, 768, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}

    def run(at: torch.Tensor) -> Callable:
        return lambda _: torch.mm(at, at).zero_

    runs = {dtype: run(at) for dtype, at in factors.items()}
    warm_up(runs, None)
    seconds = interleaved(runs, [dict.fromkeys(runs)] * 5)
    return median_ratio(seconds[torch.bfloat16], seconds[torch.float32]).value


def measurable(names: Sequence[str]) -> list[str]:
    """The rows that mean something on this CPU; says which are left out, and why."""
    emulated = [name for name in names if EXPERIMENTS[name].workload.dtype == "bfloat16"]
    cost = bfloat16_cost()
    if not emulated or cost < 1:
        return list(names)
    print(f"left out: {', '.join(emulated)}: bfloat16 takes {cost:.1f} x float32 on this CPU", file=sys.stderr)
    return [name for name in names if name not in emulated]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*EXPERIMENTS, CHECKSUMS, SANDBOX], metavar="ROW")
    parser.add_argument("--jobs", type=int, help="processes at a time")
    parser.add_argument("--measure", nargs="+", choices=EXPERIMENTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        before = time.perf_counter(), time.process_time()
        measured = measured_here(asked.measure)
        share = (time.process_time() - before[1]) / (time.perf_counter() - before[0])
        print(json.dumps({"measured": measured, "share": share}))
        return
    with tempfile.TemporaryDirectory() as folder:
        smollm2("float32").save_pretrained(folder)
        os.environ[PLAIN] = folder
        wanted = asked.only or [*measurable(list(EXPERIMENTS)), CHECKSUMS, SANDBOX]
        done = measured_rows([name for name in wanted if name in EXPERIMENTS], asked.jobs)
    if CHECKSUMS in wanted:
        done |= attempt([CHECKSUMS], lambda names: {CHECKSUMS: checksums.report()})
    if SANDBOX in wanted:  # after the others, as it counts the CPU time of all processes started here
        done |= attempt([SANDBOX], lambda names: {SANDBOX: sandbox.report()})
    rows = [row for found in done.values() for row in found or ()]
    print(table(rows))
    print(f"{sum(row.met for row in rows)} of {len(rows)} goals met; torch {torch.__version__}, one thread a row")
    if lost := [name for name, found in done.items() if found is None]:
        sys.exit(f"not measured: {', '.join(lost)}")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run_main(main)
