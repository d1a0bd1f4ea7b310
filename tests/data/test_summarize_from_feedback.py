"""Rated and compared summaries, in the shape of the published files; pairs worked out by hand."""

import json

import pytest

from sparsepo.config.preferences import FilePreferences
from sparsepo.data.preference_formats import read_preferences
from sparsepo.data.records import Preference
from sparsepo.runtime.errors import UserError

PROMPT = "SUBREDDIT: r/dogs\n\nTITLE: My dog\n\nPOST: It barks.\n\nTL;DR:"


def read(tmp_path, source, *rows, whole=None):
    path = tmp_path / "file.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if whole is None else json.dumps(whole))
    return read_preferences(FilePreferences(source=source, path=path).model_dump(mode="json"))


def dropped(pairing):
    return [(row["reason"], row["count"], row["first"].rsplit("file.json")[-1]) for row in pairing.summary["dropped"]]


def info(post="It barks.", article=None):
    return {"id": "x", "post": post, "title": "My dog", "subreddit": "dogs", "site": None, "article": article}


# --- rated posts


def rated(*pairs):
    return {"responses": [text for text, _ in pairs], "rewards": [reward for _, reward in pairs]}


def test_the_best_rated_summary_stands_against_the_worst(tmp_path):
    posts = {"One post.": rated((" mid", 5), (" low", 2), (" high", 7)), "Another.": rated((" x", 1), ("y\n", 3))}
    assert read(tmp_path, "rated_posts", whole=posts).pairs == [
        Preference("One post.\n\nTL;DR:", " high", " low", 7.0, 2.0),
        Preference("Another.\n\nTL;DR:", " y", " x", 3.0, 1.0),
    ]


def test_a_summary_that_was_rated_twice_has_the_mean(tmp_path):
    posts = {"post": rated((" a", 7), (" a", 1), (" b", 5), (" c", 3))}
    assert read(tmp_path, "rated_posts", whole=posts).pairs == [Preference("post\n\nTL;DR:", " b", " c", 5.0, 3.0)]


def test_posts_without_a_pair_are_counted_with_their_number(tmp_path):
    posts = {"good": rated(("a", 1), ("b", 2)), "tie": rated(("a", 3), ("b", 3)), "lonely": rated(("a", 3))}
    assert dropped(read(tmp_path, "rated_posts", whole=posts)) == [
        ("all responses of the prompt have the same reward", 1, ": post 2"),
        ("the only response of its prompt", 1, ": post 3"),
    ]


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        ([1], r"file\.json: one JSON object \{post: \{responses, rewards\}\} is expected"),
        ({"p": 3}, r"file\.json: post 1: the row must be a JSON object, not 3"),
        ({"p": {"responses": ["a"]}}, "post 1: field 'rewards' is missing"),
        ({"p": {"responses": ["a", "b"], "rewards": [1]}}, "post 1 has 2 responses and 1 rewards; each response"),
        ({"p": {"responses": ["a"], "rewards": ["good"]}}, r"post 1: field 'rewards\[0\]' must be a valid number"),
    ],
)
def test_a_malformed_file_of_posts_is_told_with_the_post(tmp_path, whole, says):
    with pytest.raises(UserError, match=says):
        read(tmp_path, "rated_posts", whole=whole)


def test_a_file_of_lines_is_no_file_of_posts(tmp_path):
    with pytest.raises(
        UserError, match=r"file\.json: not valid JSON \(Extra data in line 2\); one object \{post: \.\.\.\}"
    ):
        read(tmp_path, "rated_posts", {"a": 1}, {"b": 2})


# --- comparisons


def comparison(choice=0, texts=(" good one", "bad one\n"), **given):
    return {"info": info(), "summaries": [{"text": text} for text in texts], "choice": choice, "split": "train"} | given


def test_the_chosen_summary_stands_against_the_other_behind_the_template(tmp_path):
    found = read(tmp_path, "comparisons", comparison(), comparison(1, worker="w", extra={"confidence": None}))
    assert found.pairs == [Preference(PROMPT, " good one", " bad one"), Preference(PROMPT, " bad one", " good one")]


def test_summaries_of_news_articles_are_dropped(tmp_path):
    news = comparison(info=info(post=None, article="It rains."))
    assert dropped(read(tmp_path, "comparisons", comparison(), news)) == [("a news article, not a post", 1, ":2")]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"choice": 2}, ":1: field 'choice' must be less than or equal to 1, not 2"),
        ({"summaries": [{"text": "a"}]}, ":1: field 'summaries' must have two summaries, not 1"),
        ({"summaries": None}, ":1: field 'summaries' must be a valid list"),
        ({"info": "x"}, ":1: field 'info' must be a valid dictionary"),
        ({"choice": "0"}, ":1: field 'choice' must be a valid integer"),
        ({"info": {"post": "a", "title": "b"}}, ":1: info: field 'subreddit' is missing"),
        ({"summaries": [{"text": "a"}, {}]}, r":1: field 'summaries\[1\]\.text' is missing"),
    ],
)
def test_a_malformed_comparison_is_told_with_its_line(tmp_path, given, says):
    with pytest.raises(UserError, match=says):
        read(tmp_path, "comparisons", comparison(**given))


# --- axis


def rating(text, overall, post="It barks.", **given):
    return {"info": info(post), "summary": {"text": text, "axes": {"overall": overall, "accuracy": 7}}} | given


def test_the_best_mean_of_a_posts_ratings_stands_against_the_worst(tmp_path):
    rows = [rating("a", 7), rating("b", 4), rating("c", 5), rating("a", 1), rating("c", 6)]  # means 4, 4, 5.5
    assert read(tmp_path, "axis", *rows).pairs == [Preference(PROMPT, " c", " a", 5.5, 4.0)]


def test_ratings_without_an_overall_one_and_news_are_dropped(tmp_path):
    rows = [rating("a", 7), rating("b", None), rating("c", 2), rating("d", 1, post=None)]
    found = read(tmp_path, "axis", *rows)
    assert found.pairs == [Preference(PROMPT, " a", " c", 7.0, 2.0)]
    assert dropped(found) == [("no overall rating", 1, ":2"), ("a news article, not a post", 1, ":4")]


def test_a_malformed_rating_is_told_with_its_line(tmp_path):
    with pytest.raises(UserError, match=":1: field 'summary.axes' is missing"):
        read(tmp_path, "axis", {"info": info(), "summary": {"text": "a"}})
    with pytest.raises(UserError, match=":1: field 'summary.axes.overall' must be a valid number"):
        read(tmp_path, "axis", rating("a", "seven"))
