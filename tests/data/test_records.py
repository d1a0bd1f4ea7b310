"""JSONL files: what is refused with file, line and field, what is ignored, and that a write is whole or not at all."""

import errno
import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo.data.records import (
    Completion,
    Preference,
    Prompt,
    Scored,
    Text,
    read_records,
    read_rows,
    write_json,
    write_records,
    write_text,
)
from sparsepo.runtime.errors import UserError

GOOD = '{"prompt": "a", "chosen": "b", "rejected": "c"}'


@pytest.fixture
def file(tmp_path):
    """(lines) -> a JSONL file of them."""

    def make(*lines):
        path = tmp_path / "file.jsonl"
        path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
        return path

    return make


def refused(path, kind):
    """The sentence, without the path, that reading ends in."""
    with pytest.raises(UserError) as caught:
        read_records(path, kind)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


# --- lines


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", ', "Expecting property name"),
        ("{'prompt': 'a'}", "Expecting property name"),
        (GOOD + GOOD, "Extra data"),
        ("hello", "Expecting value"),
        ('{"prompt": "a\tb"}', "Invalid control character"),
        ("[" * 100_000, "a number too long, or nested too deeply"),
        ('{"prompt": ' + "1" * 5000 + "}", "a number too long, or nested too deeply"),
    ],
    ids=["cut", "single quotes", "two objects", "word", "raw tab", "endless", "long number"],
)
def test_a_broken_line_is_told_with_its_number_and_why(file, line, reason):
    sentence = refused(file(GOOD, "", line, GOOD), Preference)
    assert sentence.startswith(f":3: not valid JSON ({reason}") and sentence.endswith("one object a line is expected")


@pytest.mark.parametrize("line", ["[]", "12", '"text"', "null", "true"])
def test_a_line_that_is_no_object_is_refused(file, line):
    assert refused(file(GOOD, line), Preference) == f":2: the row must be a JSON object, not {line}"


def test_empty_lines_are_skipped_but_counted(file):
    assert len(read_records(file("", GOOD, "   ", GOOD), Preference)) == 2
    assert refused(file("", GOOD, "   ", "[]"), Preference).startswith(":4: ")


def test_a_file_may_be_empty_have_no_last_newline_or_come_from_windows(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text("")
    assert read_records(path, Preference) == []
    wanted = [Preference("a", "b", "c")] * 2
    for text in (f"{GOOD}\n{GOOD}", f"{GOOD}\r\n{GOOD}\r\n", f"\ufeff{GOOD}\n{GOOD}\n"):
        path.write_bytes(text.encode("utf-8"))
        assert read_records(path, Preference) == wanted


def test_a_byte_order_mark_inside_a_string_stays(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_bytes('\ufeff{"prompt": "\ufeffa"}\n'.encode())
    assert read_records(path, Prompt) == [Prompt("\ufeffa")]


# --- files


def test_what_is_no_readable_file_is_told(tmp_path):
    assert refused(tmp_path / "nowhere.jsonl", Prompt) == ": no such file"
    assert refused(tmp_path, Prompt) == ": is a folder; a JSONL file is expected"
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}\n')
    assert refused(tmp_path / "latin.jsonl", Prompt) == ": not UTF-8 text (byte 15)"


# --- fields


def test_a_missing_field_is_told_with_those_given(file):
    sentence = refused(file(GOOD, '{"prompt": "a", "chosen": "b", "reject": "c"}'), Preference)
    assert sentence == ":2: field 'rejected' is missing (fields given: chosen, prompt, reject)"
    assert refused(file("{}"), Prompt) == ":1: field 'prompt' is missing (fields given: none)"


@pytest.mark.parametrize("value", ["12", "null", "true", '["b"]', '{"b": 1}'])
def test_a_text_must_be_a_string(file, value):
    sentence = refused(file(GOOD, GOOD, GOOD.replace('"b"', value)), Preference)
    assert sentence == f":3: field 'chosen' must be a valid string, not {value}"


def test_a_long_value_is_shown_cut(file):
    sentence = refused(file(json.dumps({"prompt": list(range(1000))})), Prompt)
    assert sentence.endswith("...") and len(sentence) < 100


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400, '"0.5"', "null", "true", "[1]"])
def test_a_reward_must_be_a_finite_number(file, value):
    sentence = refused(file('{"prompt": "a", "text": "b", "reward": ' + value + "}"), Scored)
    assert re.match(r":1: field 'reward' must be a (finite|valid) number, not ", sentence)


def test_a_reward_may_be_an_integer_and_is_read_as_a_float(file):
    (row,) = read_records(file('{"prompt": "a", "text": "b", "reward": -3}'), Scored)
    assert row == Scored("a", "b", -3.0, True) and type(row.reward) is float


def test_a_score_of_a_pair_may_be_absent_or_null(file):
    rows = read_records(file(GOOD, GOOD.replace("}", ', "chosen_score": null, "rejected_score": 1}')), Preference)
    assert [(row.chosen_score, row.rejected_score) for row in rows] == [(None, None), (None, 1.0)]


@pytest.mark.parametrize("value", ["1", '"true"', "null"])
def test_whether_a_response_has_ended_is_true_or_false(file, value):
    sentence = refused(file(GOOD.replace("}", f', "chosen_ended": {value}}}')), Preference)
    assert sentence == f":1: field 'chosen_ended' must be a valid boolean, not {value}"


@pytest.mark.parametrize(("tokens", "at"), [("[1, 2.0]", 1), ("[true]", 0), ('["1"]', 0), ("[null]", 0)])
def test_tokens_are_integers(file, tokens, at):
    sentence = refused(file(f'{{"prompt": "a", "text": "b", "tokens": {tokens}, "ended": true}}'), Completion)
    assert sentence.startswith(f":1: field 'tokens[{at}]' must be a valid integer, not ")


def test_extra_fields_are_ignored_whatever_they_hold(file):
    (row,) = read_records(file('{"prompt": "a", "number": 7, "meta": {"x": [null]}, "score": NaN}'), Prompt)
    assert row == Prompt("a")


def test_half_of_a_surrogate_pair_is_refused_and_a_whole_one_is_a_character(file):
    sentence = refused(file(GOOD, r'{"prompt": "a", "chosen": "b \ud83d", "rejected": "c"}'), Preference)
    assert sentence.startswith(":2: field 'chosen' must be a valid string, unable to parse") and "d83d" in sentence
    (row,) = read_records(file(r'{"prompt": "\ud83d\ude00"}'), Prompt)
    assert row.prompt == "\U0001f600"


def test_line_separators_of_unicode_inside_a_string_do_not_break_a_line(file):
    odd = "one\u2028two\u2029three\x85four\x0bfive\x1cx"
    path = file(json.dumps({"prompt": odd}, ensure_ascii=True), '{"prompt": "raw \u2028 \u2029 \x85"}', "broken")
    with pytest.raises(UserError, match=r"file\.jsonl:3: not valid JSON"):
        read_records(path, Prompt)
    path = file(json.dumps({"prompt": odd}, ensure_ascii=True), '{"prompt": "raw \u2028 \u2029 \x85"}')
    assert [row.prompt for row in read_records(path, Prompt)] == [odd, "raw \u2028 \u2029 \x85"]


# --- writing

TEXTS = st.text(max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
MAYBE = st.one_of(st.none(), NUMBERS)
RECORDS = st.one_of(
    st.builds(Prompt, TEXTS),
    st.builds(Text, TEXTS, TEXTS),
    st.builds(Completion, TEXTS, TEXTS, st.lists(st.integers(0, 2**31), max_size=4), st.booleans()),
    st.builds(Scored, TEXTS, TEXTS, NUMBERS, st.booleans()),
    st.builds(Preference, TEXTS, TEXTS, TEXTS, MAYBE, MAYBE, st.booleans(), st.booleans()),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@settings(deadline=None)
@given(record=RECORDS, count=st.integers(1, 3))
def test_what_is_written_is_read_back(folder, record, count):
    path = folder / "round.jsonl"
    write_records(path, [record] * count)
    assert read_records(path, type(record)) == [record] * count


def test_text_is_written_for_people_one_record_a_line(tmp_path):
    path = tmp_path / "deep" / "er" / "file.jsonl"
    write_records(path, [Text("naïve \u2028 日本"), {"step": 1}])
    line = '{"text": "naïve \u2028 日本", "prompt": "", "rendered": false}'
    assert path.read_text(encoding="utf-8") == line + '\n{"step": 1}\n'
    assert read_rows(path) == [{"text": "naïve \u2028 日本", "prompt": "", "rendered": False}, {"step": 1}]


def test_a_json_document_is_read_back(tmp_path):
    write_json(tmp_path / "one.json", {"a": [1, None, "ü"]})
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == {"a": [1, None, "ü"]}


def left_beside(path):
    """Names of files that are neither the file nor its checksum."""
    names = {str(each.relative_to(path.parent)) for each in path.parent.rglob("*") if each.is_file()}
    return names - {path.name, f".checksums/{path.name}.sha256"}


def test_a_write_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "file.jsonl"
    write_text(path, "old\n")
    write_text(path, "new\n")
    assert path.read_text() == "new\n" and not left_beside(path)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("owner", "name"), [(os, "replace"), (os, "fsync")], ids=["while renaming", "while writing"])
def test_a_write_that_fails_leaves_the_old_file_whole_and_no_temporary_one(tmp_path, monkeypatch, owner, name):
    path = tmp_path / "file.jsonl"
    write_text(path, "old\n")
    monkeypatch.setattr(owner, name, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new\n")
    monkeypatch.undo()
    assert path.read_text() == "old\n" and not left_beside(path)


def test_text_that_utf_8_cannot_hold_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "file.jsonl"
    write_text(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_records(path, [Prompt("long " * 10_000 + "\ud83d")])
    assert path.read_text() == "old\n" and not left_beside(path)


def test_records_that_stop_coming_leave_the_old_file_whole(tmp_path):
    def some():
        yield Prompt("a")
        raise RuntimeError("killed")

    path = tmp_path / "file.jsonl"
    write_text(path, "old\n")
    with pytest.raises(RuntimeError):
        write_records(path, some())
    assert path.read_text() == "old\n" and not left_beside(path)
