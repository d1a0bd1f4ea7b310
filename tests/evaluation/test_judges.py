"""Judges against scores known by hand, the odds of Bradley and Terry, and a chat model that favours a place."""

import math
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from sparsepo.config.scorers import JudgeConfig
from sparsepo.evaluation import judges, nli
from sparsepo.evaluation.completions import Answer
from sparsepo.evaluation.judges import (
    BothOrders,
    ScoreJudge,
    bradley_terry,
    build_judge,
    prefer_greater,
)
from sparsepo.evaluation.verdicts import build_question, parse_verdict
from sparsepo.runtime.result_cache import ResultCache, request_key

PROMPTS, A, B = ["p", "p", "q"], [" good film", " dull", " same"], [" dull", " good film", " same"]


def section(**keys):
    """The section of a judge."""
    return TypeAdapter(JudgeConfig).validate_python(keys)


def test_a_scorer_prefers_what_it_scores_higher_and_equal_texts_tie(tmp_path):
    judge = build_judge(section(kind="scorer", scorer={"kind": "vader"}), tmp_path)
    assert judge(PROMPTS, A, B) == [1.0, 0.0, 0.5]
    assert list(tmp_path.iterdir()) == []


def test_a_reward_model_prefers_with_the_odds_of_bradley_and_terry(tmp_path, monkeypatch):
    rewards = {" good film": 2.0, " dull": -1.5, " same": 7.0}
    monkeypatch.setattr(
        judges, "build_scorer", lambda section, fitted_scorer: lambda _, texts: [rewards[text] for text in texts]
    )
    judge = build_judge(section(kind="scorer", scorer={"kind": "reward_model", "model": "m"}), tmp_path)
    odds = math.exp(2.0) / (math.exp(2.0) + math.exp(-1.5))
    assert judge(PROMPTS, A, B) == pytest.approx([odds, 1 - odds, 0.5])


def test_bradley_terry_of_far_rewards_neither_overflows_nor_leaves_the_unit_interval():
    assert [bradley_terry(a, 0.0) for a in (-1e6, 1e6, 0.0)] == [0.0, 1.0, 0.5]
    assert bradley_terry(1.0, 2.0) + bradley_terry(2.0, 1.0) == pytest.approx(1.0)


def test_equal_pairs_are_scored_once():
    seen = []

    def score(prompts: list[str], texts: list[str]) -> list[float]:
        seen.extend(zip(prompts, texts, strict=True))
        return [float(len(seen))] * len(texts)  # another score for each call, were there another

    assert ScoreJudge(score, prefer_greater)(["p"] * 4, ["a", "b", "a", "c"], ["c"] * 4) == [0.5] * 4
    assert sorted(seen) == [("p", "a"), ("p", "b"), ("p", "c")]


def test_an_nli_model_prefers_what_the_prompt_entails_more(tmp_path, monkeypatch):
    class Fake:
        def __init__(self, model: str, batch_size: int, pickled_weights: bool):
            assert (model, batch_size, pickled_weights) == ("nli", 3, False)

        def __call__(self, premises: list[str], hypotheses: list[str]) -> list[float]:
            return [float(hypothesis in premise) for premise, hypothesis in zip(premises, hypotheses, strict=True)]

    monkeypatch.setattr(nli, "Entailment", Fake)
    judge = build_judge(section(kind="nli", model="nli", batch_size=3), tmp_path)
    posts = ["the cat sat", "the cat sat", "the cat sat"]
    assert judge(posts, ["cat", "dog", "cat"], ["dog", "sat", "sat"]) == [1.0, 0.0, 0.5]


class Chat:
    """In place of the chat client: says what `says` makes of each build_question, and remembers the questions."""

    questions: list[str] = []

    def __init__(self, **settings):
        self.settings, self.cache = settings, settings.get("cache")

    def answers(self, questions: list[str]) -> list[Answer]:
        Chat.questions = questions
        return [Answer(Chat.says(build_question), "stop") for build_question in questions]


def chat_judge(monkeypatch, folder: Path, says):
    monkeypatch.setattr(judges, "ChatClient", Chat)
    monkeypatch.setattr(Chat, "says", staticmethod(says), raising=False)
    settings = {"url": "http://u", "api_key_env": None, "retries": 1, "timeout": 1.0, "max_concurrency": 1}
    return build_judge(section(kind="endpoint", model="m", asks="summary", max_tokens=9, **settings), folder)


def longer(asked: str) -> str:
    first, second = (asked.split(f"<candidate_{x}>\n")[1].split(f"\n</candidate_{x}>")[0] for x in "ab")
    return "[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]"


def test_a_chat_model_is_asked_in_both_orders(tmp_path, monkeypatch):
    judge = chat_judge(monkeypatch, tmp_path, longer)
    assert judge(["p", "p", "q"], [" long text ", "t", "tt"], ["t", "long text", "uu"]) == [1.0, 0.0, 0.5]
    orders = [build_question("summary", "q", "tt", "uu"), build_question("summary", "q", "uu", "tt")]
    assert [Chat.questions[i] for i in (2, 5)] == orders


def test_a_chat_model_that_favours_a_place_prefers_neither(tmp_path, monkeypatch):
    judge = chat_judge(monkeypatch, tmp_path, lambda _: "I like the first. [[A]]")
    assert judge(["p"], ["x"], ["y"]) == [0.5]


def test_without_a_verdict_in_one_order_there_is_none():
    found = {("x", "y"): None, ("y", "x"): 1.0, ("x", "z"): 1.0, ("z", "x"): 0.5}
    judge = BothOrders(lambda _, a, b: [found[pair] for pair in zip(a, b, strict=True)])
    assert judge(["p", "p", "p"], ["x", "y", "x"], ["y", "x", "z"]) == [None, None, 0.75]


VERDICTS = {
    "[[A]]": 1.0,
    "Both err.\n**[[ B ]]**": 0.0,
    "[[C]]\n```\n": 0.5,
    "At first [[A]], but on reflection [[B]]": 0.0,
    "My verdict: [[A]], as A is better": 1.0,
    "[[A]] would be right by length.\n\nI choose [[C]].": 0.5,
    "I cannot choose between [[A]] and [[B]], as both are bad": None,
    "[[A]] is for a better A.\nI decline to judge.": None,
    '{"reason": "shorter", "verdict": "B"}': 0.0,
    'So:\n```json\n{"winner": "tie", "why": {"a": 1}}\n```': 0.5,
    '{"verdict": "[[A]]"}': 1.0,
    '{"reason": "[[A]]"}': None,
    '{"verdict": "both"}': None,
    "A is better": None,
    "[A]": None,
    "[[D]]": None,
    "[[a]]": None,
    "": None,
}


@pytest.mark.parametrize(("answer", "expected"), VERDICTS.items())
def test_the_verdict_is_in_double_brackets_or_json_at_the_end(answer, expected):
    assert parse_verdict(Answer(answer, "stop")) == expected


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls", "None", "refused"])
def test_an_answer_that_did_not_finish_has_no_verdict(reason):
    assert parse_verdict(Answer("so far [[A]]", reason)) is None


@pytest.mark.parametrize("reason", ["stop", "STOP", "eos_token", "end_turn"])
def test_an_answer_that_the_model_ended_has_its_verdict(reason):
    assert parse_verdict(Answer("[[A]]", reason)) == 1.0


def test_notes_count_why_answers_have_no_verdict_and_show_the_start_of_one(tmp_path, monkeypatch):
    answers = [
        Answer("", "length"),
        Answer("[[A]]", "stop"),
        Answer("Sorry,\nno", "stop"),
        Answer("content filter", "refused", False),
    ]
    monkeypatch.setattr(Chat, "answers", lambda self, questions: answers)
    judge = chat_judge(monkeypatch, tmp_path, longer)
    assert judge(["p"] * 2, ["x", "y"], ["u", "v"]) == [None, None]
    assert judge.take_notes() == [
        "1 of 4 answers of the judge were cut off (max_tokens)",
        "1 of 4 answers of the judge have no verdict at their end",
        "1 of 4 answers of the judge were refused by the service",
        "one without a verdict begins 'Sorry,\\\\nno'",
        "a refusal of the service: content filter",
        "the judge's model takes no temperature: its answers are at its own, and may vary",
    ]
    assert judge.take_notes() == []


def test_where_answers_are_kept_is_told_if_none_of_them_has_a_verdict(tmp_path, monkeypatch):
    judge = chat_judge(monkeypatch, tmp_path, lambda _: "the first is better")
    assert judge(["p"], ["x"], ["y"]) == [None]
    (line,) = [note for note in judge.take_notes() if "delete it to ask again" in note]
    assert str(tmp_path) in line


@pytest.mark.parametrize("asks", ["dialogue", "summary"])
def test_a_question_holds_every_text_once_and_itself_parses_as_a_tie(asks):
    asked = build_question(asks, "POST {x}", "FIRST {a} %s", "SECOND [[A]]")
    assert [asked.count(text) for text in ("POST {x}", "FIRST {a} %s", "SECOND [[A]]")] == [1, 1, 1]
    assert asked.index("POST") < asked.index("FIRST") < asked.index("SECOND")
    assert build_question(asks, "p", "x", "y") == build_question(asks, "p\n", " x", "y ")


def test_the_two_kinds_of_question_ask_for_different_things():
    assert "harm" in build_question("dialogue", "p", "x", "y") and "harm" not in build_question(
        "summary", "p", "x", "y"
    )
    assert "post" in build_question("summary", "p", "x", "y") and "post" not in build_question(
        "dialogue", "p", "x", "y"
    )


def test_what_the_folder_holds_is_not_asked_again(tmp_path):
    asked = [build_question("dialogue", "p", *texts) for texts in (("x", "y"), ("y", "x"))]
    known = ResultCache(tmp_path / "answers.jsonl")
    for content, answer in zip(asked, ("[[A]]", "[[C]]"), strict=True):
        body = {"model": "m", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 9}
        known[request_key(body)] = {"text": answer, "finish_reason": "stop"}
    nowhere = {"url": "http://127.0.0.1:9", "api_key_env": None, "retries": 1, "timeout": 1.0, "max_concurrency": 1}
    judge = build_judge(section(kind="endpoint", model="m", asks="dialogue", max_tokens=9, **nowhere), tmp_path)
    assert judge(["p"], ["x"], ["y"]) == [0.75]
