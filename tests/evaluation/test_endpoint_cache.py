"""The cache of answers: what is in the file, and what is only half in it."""

import threading

from sparsepo.evaluation.endpoint_cache import AnswerCache, request_key


def test_the_key_of_a_request_is_that_of_its_meaning_not_of_its_layout():
    one, same, other = {"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 1, "b": [3]}
    assert request_key(one) == request_key(same) != request_key(other)
    assert request_key({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # sha256sum of {}


def test_lines_that_are_not_whole_are_passed_over_and_the_next_answer_gets_its_own(tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    AnswerCache(path)["one"] = "1 \u2028 \ud800"
    with path.open("ab") as file:
        file.write(b'7\n{"key": "x"}\n\xff\n{"key": 3, "answer": "y"}\n{"key": "two", "ans')
    AnswerCache(path)["three"] = "3"
    found = AnswerCache(path)
    assert (len(found), found["one"], found["three"]) == (2, "1 \u2028 \ud800", "3")


def test_threads_share_a_cache(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    work = [threading.Thread(target=cache.__setitem__, args=(f"{i}", "x" * 9000)) for i in range(40)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(AnswerCache(tmp_path / "answers.jsonl")) == 40
