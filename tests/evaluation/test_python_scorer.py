"""A reward in Python: what it is given, what it may return, and what is refused before a job and in it."""

import math

import pytest
import yaml

from sparsepo.config.loading import load_config
from sparsepo.config.scorers import PythonScorer
from sparsepo.data.chat import scored_prompt
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.records import Completion
from sparsepo.evaluation.judges import ScoreJudge, prefer_greater
from sparsepo.evaluation.scorers import build_scorer
from sparsepo.runtime.errors import UserError

CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture
def scorer(tmp_path):
    """(text of a file) -> the scorer of its function `score`."""

    def made(text):
        path = tmp_path / f"reward_{abs(hash(text))}.py"
        path.write_text(text)
        return build_scorer(PythonScorer(kind="python", function=f"{path}:score"))

    return made


RETURNS = {
    "a list": "[1, 2.5]",
    "a tuple": "(1, 2.5)",
    "a generator": "(value for value in (1, 2.5))",
    "an array": "__import__('numpy').array([1, 2.5], dtype='float32')",
    "a column": "__import__('numpy').array([[1], [2.5]])[:, 0]",
    "a tensor": "__import__('torch').tensor([1, 2.5], requires_grad=True)",
    "scalars": "[__import__('numpy').float32(1), __import__('torch').tensor(2.5)]",
    "a series": "__import__('pandas').Series([1, 2.5])",
}


@pytest.mark.parametrize("value", RETURNS.values(), ids=RETURNS)
def test_scores_may_be_lists_arrays_and_tensors(scorer, value):
    assert scorer(f"def score(prompts, responses):\n    return {value}")(["a", "b"], ["c", "d"]) == [1.0, 2.5]


REFUSED = {
    "too few": ("[1.0]", "returned 1 scores for 2 texts"),
    "nan": ("[1.0, float('nan')]", "returned nan for text 1, which begins 'bd'; a finite number is expected"),
    "None": ("None", "returned None; a list with a number for each response is expected"),
    "one number": ("0.5", "returned one float; a list with a number"),
    "a text": ("'ab'", "returned one str; a list"),
    "texts": ("['1', '2']", "returned '1' for text 0; a number is expected"),
    "a dict": ("{0: 1, 1: 2}", "returned one dict; a list"),
    "nested": ("[[1], [2]]", r"returned \[1\] for text 0; a number is expected"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_score_is_refused_with_the_function(scorer, value, message):
    own = scorer(f"def score(prompts, responses):\n    return {value}")
    with pytest.raises(UserError, match=rf"scorer '.*reward_\d+.py:score' {message}"):
        own(["a", "b"], ["c", "d"])


def test_a_function_gets_texts_chats_and_the_columns_that_it_asks_for(scorer):
    own = scorer(
        "def score(prompts, responses, level, other=0, *, tag='none'):\n"
        f"    assert prompts == ['p', {CHAT!r}] and [type(prompt) for prompt in prompts] == [str, list]\n"
        "    assert (other, tag) == (0, ['x', 'y'])\n    return level"
    )
    rows = [
        Completion("p", "r", [1], True, columns={"level": 3, "tag": "x", "unasked": 1}),
        Completion("rendered", "s", [1], True, messages=CHAT, columns={"level": 4, "tag": "y", "unasked": 2}),
    ]
    assert own([scored_prompt(row) for row in rows], ["r", "s"]) == [3.0, 4.0]
    everything = scorer("def score(prompts, responses, **columns):\n    return [len(columns)] * len(prompts)")
    assert everything([scored_prompt(row) for row in rows], ["r", "s"]) == [3.0, 3.0]


def test_a_judge_by_a_function_sees_the_columns_too(scorer):
    own = scorer("def score(prompts, responses, best):\n    return [a == b for a, b in zip(best, responses)]")
    row = Completion("p", "x", [1], True, columns={"best": "x"})
    assert ScoreJudge(own, prefer_greater)([scored_prompt(row)], ["x"], ["y"]) == [1.0]


def test_state_is_made_once_at_import(scorer):
    own = scorer("count = [0]\ndef score(prompts, responses):\n    count[0] += 1\n    return count * len(prompts)")
    assert [own(["a"], ["b"]), own(["a"], ["b"])] == [[1.0], [2.0]]


def test_columns_of_rows_are_kept_as_asked_and_a_missing_one_names_its_row():
    builder = PromptBuilder(columns={"level": True, "tag": False})
    assert builder.columns_of({"prompt": "p", "level": 1, "more": 2}, "f:1") == {"level": 1}
    assert PromptBuilder(columns={"*": False}).columns_of({"prompt": "p", "level": 1}, "f:1") == {"level": 1}
    with pytest.raises(UserError, match="f:2: no column 'level', which a function of the config takes; it has prompt"):
        builder.columns_of({"prompt": "p"}, "f:2")
    with pytest.raises(UserError, match="f:3: column 'level' is a set; a function"):
        builder.columns_of({"prompt": "p", "level": {1}}, "f:3")
    with pytest.raises(UserError, match="f:4: column 'level' is a float"):
        builder.columns_of({"prompt": "p", "level": math.nan}, "f:4")


CONFIG = """
name: mine
tasks:
  t:
    model: {source: hub, id: gpt2}
    data: {source: texts, path: texts.jsonl, prompts: {validation: 2, test: 2}}
    preferences: {source: generated, scorer: {kind: python, function: own.py:score}}
    methods: {dpo: {beta: 0.1}}
    training: {frontier_every: 0}
    evaluation: {scorer: {kind: vader}}
"""


def test_a_config_is_checked_before_any_job(tmp_path, monkeypatch):
    def errors(code, **scorer):
        (tmp_path / "own.py").write_text(code)
        config = yaml.safe_load(CONFIG)
        config["tasks"]["t"]["data"]["path"] = str(tmp_path / "texts.jsonl")
        config["tasks"]["t"]["preferences"]["scorer"] |= scorer
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
        try:
            return load_config(tmp_path / "my.yaml") and ""
        except UserError as error:
            return str(error)

    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    good = "def score(prompts, responses): pass"
    assert errors(good) == ""
    assert "scorer.function: the function takes 'level', and data.source 'texts' has no columns" in errors(
        "def score(prompts, responses, level): pass"
    )
    assert "higher_is_better: a reward is better when higher: return its negative" in errors(
        good, higher_is_better=False
    )
    assert "own.py:1: not valid Python" in errors("def score(")
