"""Summaries of Reddit posts that people rated or compared: the data of ODPO and openai/summarize_from_feedback."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Any

from sparsepo.data.pairing import Found, PairBuilder, extremes
from sparsepo.data.readers import Rows, subset_of
from sparsepo.data.records import Preference, Scored, Text, as_record, parse_json, read_text
from sparsepo.runtime.errors import UserError

NEWS = "a news article, not a post"


@dataclass(frozen=True)
class Post:
    """A post of Reddit."""

    subreddit: str
    title: str
    post: str

    @property
    def prompt(self) -> str:
        """As in the summarisation data of OpenAI (arXiv 2009.01325): what follows is the summary."""
        return f"SUBREDDIT: r/{self.subreddit}\n\nTITLE: {self.title}\n\nPOST: {self.post}\n\nTL;DR:"


@dataclass(frozen=True)
class Choice:
    """Which of two summaries is better, 0 or 1."""

    choice: int


@dataclass(frozen=True)
class Rating:
    """What one person thought of a summary, from 1 to 7."""

    overall: float


@dataclass(frozen=True)
class Rated:
    """A summary, which is scored by the mean of its ratings."""

    place: str
    subset: str
    prompt: str
    text: str
    rating: float


def rated_post_rows(path: str) -> Rows:
    """One JSON object {post: {"responses", "rewards"}} as rows {"post", "responses", "rewards"}; posts count from 1."""
    posts = parse_json(read_text(path), path, "one object {post: ...}")
    if not isinstance(posts, dict):
        raise UserError(f"{path}: one JSON object {{post: {{responses, rewards}}}} is expected, not a list or a value")
    for number, (post, rated) in enumerate(posts.items(), start=1):
        place = f"{path}: post {number}"
        lists = {name: part(rated, name, list, place) for name in ("responses", "rewards")}
        yield place, {"post": post} | lists


def rated_posts(rows: Rows, made: PairBuilder) -> Iterator[Found]:
    """The summary of best rating against that of worst, behind the post and "TL;DR:"."""
    rated = []
    for place, row in rows:
        if len(row["responses"]) != len(row["rewards"]):
            counts = f"{len(row['responses'])} responses and {len(row['rewards'])} rewards"
            raise UserError(f"{place} has {counts}; each response needs one")
        for text, reward in zip(row["responses"], row["rewards"], strict=True):
            given = as_record({"prompt": row["post"], "text": text, "reward": reward}, Scored, place)
            rated.append(Rated(place, "", f"{given.prompt}\n\nTL;DR:", summary(given.text), given.reward))
    return _best_and_worst(rated, made)


def rated_on_axes(rows: Rows, made: PairBuilder) -> Iterator[Found]:
    """The same of rows {"info", "summary": {"text", "axes": {"overall"}}, "split"}, one for each rating."""
    rated = []
    for place, row in rows:
        post, rating = post_of(row, place), part(row, "summary", dict, place)
        axes = part(rating, "axes", dict, f"{place}: summary")
        if post is None:
            made.drop(NEWS, place)
        elif axes.get("overall") is None:
            made.drop("no overall rating", place)
        else:
            text = as_record(rating, Text, f"{place}: summary").text
            overall = as_record(axes, Rating, f"{place}: axes").overall
            rated.append(Rated(place, subset_of(row, "split", place), post.prompt, summary(text), overall))
    return _best_and_worst(rated, made)


def compared(rows: Rows, made: PairBuilder) -> Iterator[Found]:
    """The chosen against the other summary of rows {"info", "summaries": [{"text"}, {"text"}], "choice", "split"}."""
    for place, row in rows:
        post, summaries = post_of(row, place), part(row, "summaries", list, place)
        choice = as_record(row, Choice, place).choice
        if len(summaries) != 2 or choice not in (0, 1):
            given = f"{len(summaries)} and {choice}"
            raise UserError(f"{place}: two summaries and a choice of 0 or 1 are expected, not {given}")
        texts = [summary(as_record(each, Text, f"{place}: summaries[{at}]").text) for at, each in enumerate(summaries)]
        if post is None:
            made.drop(NEWS, place)
        else:
            yield place, subset_of(row, "split", place), Preference(post.prompt, texts[choice], texts[1 - choice])


def post_of(row: Any, place: str) -> Post | None:
    """The post of a row; None for a news article, of which the validation data have some."""
    info = part(row, "info", dict, place)
    return None if info.get("post") is None else as_record(info, Post, f"{place}: info")


def summary(text: str) -> str:
    """A summary as a response: one space, which its prompt lacks, and no white space behind."""
    return f" {text.strip()}"


def part(row: Any, name: str, kind: type, place: str) -> Any:
    """A field that holds a list or an object."""
    if not isinstance(row, dict) or not isinstance(row.get(name), kind):
        raise UserError(f"{place}: field '{name}' must be {'a list' if kind is list else 'an object'}")
    return row[name]


def _best_and_worst(rated: list[Rated], made: PairBuilder) -> Iterator[Found]:
    """One pair a prompt; a summary that was rated several times has the mean."""
    groups: dict[tuple[str, str], list[Rated]] = {}
    subsets: dict[str, str] = {}
    for each in rated:
        groups.setdefault((each.prompt, each.text), []).append(each)
        subsets.setdefault(each.prompt, each.subset)
    scored = [
        (same[0].place, Scored(prompt, text, mean(each.rating for each in same)))
        for (prompt, text), same in groups.items()
    ]
    return ((place, subsets[pair.prompt], pair) for place, pair in extremes(scored, made))
