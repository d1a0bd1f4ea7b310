"""Whether programs solve their problems, and pass@k of that."""

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

from sparsepo.data.mbpp_humaneval import Problem, build_program
from sparsepo.data.records import Completion
from sparsepo.evaluation.sandbox import ProgramResult, Sandbox
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache


def run_completions(
    problems: Mapping[str, Problem],
    completions: Sequence[Completion],
    sandbox: Sandbox,
    cache: ResultCache | None = None,
) -> list[ProgramResult]:
    """Runs each completion with the tests of its problem; results in the same order. Equal programs are run once.

    problems: id -> problem. The completions were cut at the stop strings of their suite when they were sampled. Raises
    UserError for a completion of another problem.
    """
    unknown = next((row.id for row in completions if row.id not in problems), None)
    if unknown is not None:
        raise UserError(f"a program is for problem '{unknown}', which is not one of the {len(problems)} in the data")
    programs = [build_program(problems[row.id], row.text) for row in completions]
    distinct = list(dict.fromkeys(programs))
    results = dict(zip(distinct, sandbox.run(distinct, cache), strict=True))
    return [results[program] for program in programs]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n programs, drawn without replacement, include one of the c that pass; k <= n.

    1 - C(n - c, k) / C(n, k), unbiased (Chen et al. 2021, arXiv 2107.03374, equation 1).
    """
    assert 0 <= c <= n and 1 <= k <= n, (n, c, k)
    return 1 - comb(n - c, k) / comb(n, k)


def code_measures(problems: Sequence[str], passed: Sequence[bool], ks: Sequence[int]) -> dict[str, dict[str, Any]]:
    """`pass@k` -> a value of each problem.

    problems: the problem of each program, `passed`: its outcome. Raises UserError for a k above the number of programs
    of a problem.
    """
    outcomes: dict[str, list[bool]] = {}
    for problem, outcome in zip(problems, passed, strict=True):
        outcomes.setdefault(problem, []).append(bool(outcome))
    fewest = min(map(len, outcomes.values()), default=0)
    if max(ks) > fewest:
        raise UserError(f"pass@{max(ks)} needs as many programs for each problem, but one of them has {fewest}")
    return {
        f"pass@{k}": {
            "values": [pass_at_k(len(own), sum(own), k) for own in outcomes.values()],
            "groups": list(outcomes),
        }
        for k in ks
    }
