"""Preferences of a user's file or of the hub: every format by hand, filters, and each dropped row with its place."""

import json

import pytest
from pydantic import ValidationError

from sparsepo.config.preferences import FilePreferences
from sparsepo.data import readers
from sparsepo.data.preference_formats import FORMATS, read_preferences
from sparsepo.data.records import Preference
from sparsepo.runtime.errors import UserError


def write(tmp_path, *objects):
    path = tmp_path / "file.jsonl"
    path.write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in objects))
    return str(path)


def read(path, source="pairs", **given):
    """With the keys that a config has."""
    section = FilePreferences(source=source, path=path, **given)
    return read_preferences(section.model_dump(mode="json"))


def pair(prompt="p", chosen=" a", rejected=" b", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def dropped(pairing):
    return [(row["reason"], row["count"], row["first"]) for row in pairing.summary["dropped"]]


def test_every_format_of_a_config_is_there():
    assert set(FORMATS) == set(FilePreferences.model_fields["source"].annotation.__args__)


# --- pairs and scored responses


def test_a_file_of_pairs_is_taken_as_it_is(tmp_path):
    path = write(tmp_path, pair(id=1), pair("q", "x", " y ", chosen_score=2))
    assert read(path).pairs == [Preference("p", " a", " b"), Preference("q", "x", " y ", 2.0)]


def test_pairs_that_cannot_be_used_are_counted_with_file_and_line_of_the_first(tmp_path):
    path = write(
        tmp_path,
        pair(),
        pair(chosen=""),
        pair(chosen=" same", rejected=" same"),
        "\n",
        pair(chosen="  "),
        pair(rejected=""),
        pair(prompt=" "),
    )
    found = read(path)
    assert len(found.pairs) == 1
    assert dropped(found) == [
        ("field 'chosen' is empty", 2, f"{path}:2"),
        ("chosen and rejected are equal", 1, f"{path}:3"),
        ("field 'rejected' is empty", 1, f"{path}:6"),
        ("field 'prompt' is empty", 1, f"{path}:7"),
    ]
    assert str(found) == (
        f"1 pairs; 2 dropped: field 'chosen' is empty (first: {path}:2); "
        f"1 dropped: chosen and rejected are equal (first: {path}:3); "
        f"1 dropped: field 'rejected' is empty (first: {path}:6); "
        f"1 dropped: field 'prompt' is empty (first: {path}:7)"
    )


@pytest.mark.parametrize("source", ["pairs", "scored", "transcripts", "messages", "comparisons", "axis"])
def test_a_broken_line_stops_the_reading_with_file_and_line(tmp_path, source):
    with pytest.raises(UserError, match=r"file\.jsonl:2: not valid JSON"):
        read(write(tmp_path, "\n", '{"prompt": \n'), source)


@pytest.mark.parametrize("source", ["pairs", "scored", "transcripts", "messages", "comparisons", "axis"])
def test_a_line_that_is_no_row_of_the_format_is_told_with_file_and_line(tmp_path, source):
    for row in ([1, 2], {"text": "of another kind"}):
        with pytest.raises(UserError, match=r"file\.jsonl:1: "):
            read(write(tmp_path, row), source)


def test_a_missing_or_bad_field_stops_the_reading_with_file_line_and_field(tmp_path):
    with pytest.raises(UserError, match=r"file\.jsonl:2: field 'rejected' is missing"):
        read(write(tmp_path, pair(), {"prompt": "p", "chosen": "c"}))
    with pytest.raises(UserError, match=r"file\.jsonl:1: field 'reward' must be a finite number, not NaN"):
        read(write(tmp_path, '{"prompt": "p", "text": "t", "reward": NaN}\n'), "scored")


def test_a_file_without_a_usable_pair_is_refused_and_says_why(tmp_path):
    tied = [{"prompt": prompt, "text": text, "reward": 1.0} for prompt in "pq" for text in "ab"]
    path = write(tmp_path, *tied)
    with pytest.raises(UserError) as caught:
        read(path, "scored")
    assert str(caught.value) == (
        f"{path}: no usable pair (0 pairs; 2 dropped: all responses of the prompt have the same reward "
        f"(first: {path}:1))"
    )
    with pytest.raises(UserError, match=r"no usable pair \(0 pairs\)"):
        read(write(tmp_path))


def test_scored_responses_of_a_file_are_spaced_and_paired(tmp_path):
    path = write(
        tmp_path,
        {"prompt": "I like", "text": "it.", "reward": 2, "model": "x"},
        {"prompt": "I like", "text": ", not", "reward": -1.5},
        {"prompt": "I like", "text": "", "reward": 9},
    )
    found = read(path, "scored")
    assert found.pairs == [Preference("I like", " it.", ", not", 2.0, -1.5)]
    assert dropped(found) == [("field 'text' is empty", 1, f"{path}:3")]


def test_responses_of_several_messages_are_counted(tmp_path):
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    path = write(tmp_path, pair(), {"prompt": [user], "chosen": [answer, answer], "rejected": [answer]})
    found = read(path)
    assert found.pairs == [Preference("p", " a", " b")]
    assert dropped(found) == [("a response has several messages", 1, f"{path}:2")]


# --- filters


def test_a_pair_is_dropped_for_the_difference_of_its_lengths_not_for_their_size(tmp_path):
    words = {count: " " + "  ".join(["word"] * count) for count in (1, 99, 101, 115, 120)}
    path = write(
        tmp_path,
        pair("both long", words[120], words[115]),
        pair("99 against 1", words[99], words[1]),
        pair("101 against 1", words[101], words[1]),
        pair("1 against 120", words[1], words[120]),
        pair("long prompt" + words[120], " a", " b c"),
    )
    found = read(path, max_length_difference=100)
    assert [each.prompt[:12] for each in found.pairs] == ["both long", "99 against 1", "101 against ", "long prompt "]
    assert dropped(found) == [("the lengths of the responses differ by more than 100 words", 1, f"{path}:4")]
    assert len(read(path, max_length_difference=97).pairs) == 2 and len(read(path).pairs) == 5
    alike = write(tmp_path, pair(), pair("q", " a", " b c"))
    assert [each.prompt for each in read(alike, max_length_difference=0).pairs] == ["p"]


def test_a_sample_is_of_each_subset_and_keeps_the_order_of_the_data(tmp_path):
    rows = [pair(f"{n}", dataset="a" if n % 3 else "b") for n in range(30)]
    found = read(write(tmp_path, *rows), sample=4, seed=1)
    numbers = [int(each.prompt) for each in found.pairs]
    assert [sum(n % 3 == 0 for n in numbers), sum(n % 3 > 0 for n in numbers)] == [4, 4]
    assert numbers == sorted(numbers)
    assert dict(found.dropped) == {"not among the 4 that were sampled of each subset": 22}


def test_the_seed_chooses_the_sample_and_another_subset_does_not_change_it(tmp_path):
    rows = [pair(f"{n}", dataset="a") for n in range(20)]
    path = write(tmp_path, *rows)
    once, again, other = (read(path, sample=5, seed=seed).pairs for seed in (1, 1, 2))
    assert once == again != other
    more = read(write(tmp_path, *[pair(f"{n}", dataset="b") for n in range(50, 60)], *rows), sample=5, seed=1)
    assert more.pairs[5:] == once


def test_a_subset_smaller_than_the_sample_is_taken_whole(tmp_path):
    path = write(tmp_path, pair("p"), pair("q"))
    assert read(path, sample=7).summary == {"pairs": 2, "dropped": []}


def test_unusable_pairs_do_not_use_up_the_sample(tmp_path):
    rows = [pair(f"p{n}", chosen="" if n % 2 else " a") for n in range(20)]
    assert len(read(write(tmp_path, *rows), sample=10).pairs) == 10


# --- mixtures


def test_a_mixture_has_the_pairs_of_all_its_data_sets_each_sampled_as_a_subset_of_its_own(tmp_path):
    """Comparisons and rated summaries of one hundred posts each: 4 pairs of each, whatever the other one gives."""
    info = [{"subreddit": "r", "title": "t", "post": f"post {n}"} for n in range(200)]
    comparisons = [
        {"info": info[n], "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0, "split": "train" if n % 2 else "x"}
        for n in range(100)
    ]
    ratings = [
        {"info": info[n], "summary": {"text": text, "axes": {"overall": overall}}}
        for n in range(100, 200)
        for text, overall in (("c", 7), ("d", 2))
    ]
    (tmp_path / "axis.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ratings))
    axis = {"source": "axis", "path": str(tmp_path / "axis.jsonl")}
    path = write(tmp_path, *comparisons)
    whole = read(path, "comparisons", mixture=[axis]).pairs
    assert [each.chosen for each in whole] == [" a"] * 100 + [" c"] * 100
    found = read(path, "comparisons", mixture=[axis], sample=4).pairs
    assert [each.chosen for each in found] == [" a"] * 4 + [" c"] * 4
    assert found[:4] == read(path, "comparisons", sample=4).pairs
    numbers = [int(each.prompt.split("post ")[1].split()[0]) for each in found]
    assert max(numbers[:4]) < 100 <= min(numbers[4:]) and len(set(numbers)) == 8


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mixture": [{"source": "pairs"}]}, "mixture.*give one of 'path'"),
        ({"mixture": [{"source": "axis", "path": "PATH", "columns": {"post": "x"}}]}, "unknown field"),
        ({"mixture": [{"source": "unpaired", "path": "PATH"}]}, "cannot be mixed with pairs"),
        ({"mixture": [{"source": "scored", "path": "PATH"}], "test": {"path": "PATH"}}, "split by data.prompts"),
        ({"mixture": [{"source": "rated_posts", "hub": {"id": "a/b"}}]}, "'path'"),
    ],
)
def test_a_mixture_that_cannot_be_read_is_refused(tmp_path, given, says):
    path = write(tmp_path, pair())
    given = json.loads(json.dumps(given).replace("PATH", path))
    with pytest.raises(ValidationError, match="(?s)" + says):
        FilePreferences(source="pairs", path=path, **given)


# --- the hub


def test_rows_of_the_hub_give_the_same_pairs_as_those_of_a_file(tmp_path, monkeypatch):
    rows = [pair("p"), pair("q", chosen=""), pair("r")]
    from_file = read(write(tmp_path, *rows))
    places = [(f"row {n}", row) for n, row in enumerate(rows)]
    monkeypatch.setattr(readers, "hub_rows", lambda hub: iter(places))
    assert read_preferences(settings(hub={"id": "some/set"})).pairs == from_file.pairs


def settings(**given):
    return FilePreferences(source="pairs", **given).model_dump(mode="json")


def test_rated_posts_are_read_from_a_file_only():
    with pytest.raises(ValidationError, match="'path'"):
        FilePreferences(source="rated_posts", hub={"id": "some/set"})
