"""What is kept of a stage: what is in the file, what is only half in it, and what is of another stage."""

import threading

from sparsepo.runtime.result_cache import ResultCache, get_or_compute, request_key


def test_the_key_of_a_request_is_that_of_its_meaning_not_of_its_layout():
    one, same, other = {"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 1, "b": [3]}
    assert request_key(one) == request_key(same) != request_key(other)
    assert request_key({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # sha256sum of {}


def test_lines_that_are_not_whole_are_passed_over_and_the_next_answer_gets_its_own(tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    ResultCache(path)["one"] = "1 \u2028 \ud800"
    with path.open("ab") as file:
        file.write(b'7\n{"key": "x"}\n\xff\n{"key": 3, "answer": "y"}\n{"key": "z", "answer": "\0"}\n\0\0\n')
        file.write(b'{"key": "two", "ans')
    ResultCache(path)["three"] = "3"
    found = ResultCache(path)
    assert (len(found), found["one"], found["three"]) == (2, "1 \u2028 \ud800", "3")


def test_threads_share_a_cache(tmp_path):
    cache = ResultCache(tmp_path / "answers.jsonl")
    work = [threading.Thread(target=cache.__setitem__, args=(f"{i}", "x" * 9000)) for i in range(40)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(ResultCache(tmp_path / "answers.jsonl")) == 40


def test_a_request_is_made_once_and_answered_from_the_file_after_a_kill(tmp_path):
    path, asked = tmp_path / "kept.jsonl", []

    def make():
        asked.append(1)
        return [[1, 2], [3]]

    assert (
        get_or_compute(ResultCache(path, "mine"), ["a", 1], make)
        == get_or_compute(ResultCache(path, "mine"), ["a", 1], make)
        == [[1, 2], [3]]
    )
    assert len(asked) == 1 and get_or_compute(None, ["a", 1], make) == [[1, 2], [3]] and len(asked) == 2
    other = ResultCache(path, "other")
    assert len(other) == 0 and get_or_compute(other, ["a", 1], lambda: "new") == "new"
    assert len(ResultCache(path, "mine")) == len(ResultCache(path, "other")) == 1
    other.delete()
    assert not path.exists()
