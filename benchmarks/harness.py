"""How it is measured: contenders in turn on the same batches, ratios batch by batch, peaks of resident memory."""

import gc
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo.runtime.errors import UserError

LEAST = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
"""Environment of a process whose memory is read: what glibc frees goes back to the system at once."""


def warm_up(runs: Mapping[str, Callable[[Any], Callable[[], None]]], inputs: Any) -> None:
    """Let each take this for nothing: until then the memory of a step is new to the process, and costs page faults."""
    for run in runs.values():
        run(inputs)()


def interleaved(
    runs: Mapping[str, Callable[[Any], Callable[[], None]]],
    rounds: Sequence[Mapping[str, Any]],
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of each run in each round; who comes first rotates, so that a slow minute hits all alike.

    A run takes what the round holds for it and gives a function that tidies up, outside the measured time. The clock
    is the CPU time of this process, which one thread spends.
    """
    names, seconds = list(runs), {name: [] for name in runs}
    for place, inputs in enumerate(rounds):
        turn = place % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            tidy = runs[name](inputs[name])
            seconds[name].append(clock() - start)
            tidy()
    return seconds


@dataclass(frozen=True)
class Ratio:
    """Ours / a peer: the value that counts, and the least and largest of single batches."""

    value: float
    low: float
    high: float


def median_ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """Batch by batch."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def total_ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """Of the sums, for contenders that cut the same pairs into different batches."""
    value = sum(ours) / sum(peer)
    return Ratio(value, value, value)


@dataclass(frozen=True)
class Finding:
    """A row of the table."""

    name: str
    claim: str
    ratio: Ratio
    goal: float
    mode: str

    @property
    def met(self) -> bool:
        return self.ratio.value <= self.goal


def table(findings: Sequence[Finding]) -> str:
    """Markdown; `batches` is the range of single batches."""
    head = ("row", "ours / peer", "ratio", "batches", "goal", "met", "mode")
    rows = [
        (
            found.name,
            found.claim,
            f"{found.ratio.value:.3f}",
            f"{found.ratio.low:.2f}-{found.ratio.high:.2f}",
            f"<= {found.goal:.2f}",
            "yes" if found.met else "NO",
            found.mode,
        )
        for found in findings
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def in_process(script: str, *arguments: str, **environment: str) -> Any:
    """What a script says as JSON on its last line when run with these arguments."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        raise UserError(f"{' '.join(arguments)} failed with code {done.returncode}{_cause(done.returncode)}")
    return json.loads(done.stdout.splitlines()[-1])


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns in a process of its own, which has all that this one has, models too. Linux only."""
    context = multiprocessing.get_context("fork")
    found, told = context.Pipe(duplex=False)
    child = context.Process(target=lambda: told.send(work()))
    child.start()
    child.join()
    if child.exitcode:
        raise UserError(f"failed with code {child.exitcode}{_cause(child.exitcode)}")
    return found.recv()


def _cause(code: int) -> str:
    return ": killed, most likely for want of memory" if code == -signal.SIGKILL else ", see above"


def peak_above(work: Callable[[], Any]) -> int:
    """Bytes of resident memory that `work` needs at most, above what the process holds before. Linux only."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew from here
    except OSError as error:
        raise UserError(f"peaks of memory are read from /proc, which only Linux has ({error})") from None
    held = _status("VmRSS")
    work()
    return _status("VmHWM") - held


def _status(field: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
