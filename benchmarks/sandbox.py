"""Programs through the sandbox: how many a second on two cores, against a bare Python for each of them.

    python benchmarks/sandbox.py
    python benchmarks/sandbox.py --mbpp mbpp.jsonl      how many of MBPP's own solutions pass

Trivial programs, so what is measured is what the sandbox costs: CPU time, of which two free cores have two seconds a
second. A Python is started for each program of the peer, by two threads; it protects nothing.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
from harness import Finding, interleaved, median_ratio, table

from sparsepo.data.mbpp_humaneval import build_program, read_mbpp
from sparsepo.evaluation.sandbox import Sandbox, find_launch
from sparsepo.runtime.entry_point import run_main

WORKERS = 2
PROGRAMS_A_SECOND = 400
ROUNDS = 5


def bare(python: str) -> Callable[[Sequence[str]], None]:
    def one(program: str) -> None:
        subprocess.run([python, "-I", "-S", "-B", "-c", program], check=True)

    def all_of_them(programs: Sequence[str]) -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(one, programs))

    return all_of_them


def cpu_seconds() -> float:
    """CPU time of this process and of all that it started."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (here, *here.children(recursive=True)))


def measure(programs: Sequence[str]) -> dict[str, list[float]]:
    """CPU seconds of each round."""
    peer = bare(find_launch(unsafe=False).python)
    with Sandbox(WORKERS) as sandbox:

        def sandboxed(programs: Sequence[str]) -> Callable[[], None]:
            failed = [verdict for verdict in sandbox.run(programs) if not verdict.passed]
            assert not failed, failed[0]
            return lambda: None

        runs = {"ours": sandboxed, "bare": lambda programs: peer(programs) or (lambda: None)}
        return interleaved(runs, [dict.fromkeys(runs, programs)] * ROUNDS, clock=cpu_seconds)


def findings(seconds: dict[str, list[float]], programs: int) -> list[Finding]:
    wanted = [WORKERS * programs / PROGRAMS_A_SECOND] * ROUNDS
    rates = {name: WORKERS * programs / statistics.median(own) for name, own in seconds.items()}
    claim = f"CPU time of {programs} programs / {wanted[0]:g} s: {rates['ours']:.0f} a second"
    against = f"CPU time / a bare Python for each: {rates['bare']:.0f} a second"
    mode = f"{WORKERS} free cores"
    return [
        Finding("rate", claim, median_ratio(seconds["ours"], wanted), 1.0, mode),
        Finding("bare", against, median_ratio(seconds["ours"], seconds["bare"]), 0.75, mode),
    ]


def report(count: int = 1000) -> list[Finding]:
    return findings(measure([f"x = {number}" for number in range(count)]), count)


def run_solutions(path: str, timeout: float) -> None:
    problems = [problem for split in read_mbpp({"path": path}).values() for problem in split]
    with Sandbox(WORKERS, timeout) as sandbox:
        results = sandbox.run([build_program(problem, problem.solution) for problem in problems])
    for problem, result in zip(problems, results, strict=True):
        if not result.passed:
            print(f"{problem.id}: {result.status} after {result.seconds:g} s ({result.detail})")
    print(f"{sum(result.passed for result in results)} of {len(results)} solutions pass at {timeout:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--mbpp", metavar="FILE", help="run the solutions in mbpp.jsonl instead")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds of a solution")
    asked = parser.parse_args()
    if asked.mbpp:
        return run_solutions(asked.mbpp, asked.timeout)
    rows = report(asked.programs)
    print(table(rows))
    if not all(row.met for row in rows):
        sys.exit("not every goal is met")


if __name__ == "__main__":
    run_main(main)
