"""Summaries of Reddit posts that people rated or compared: the data of ODPO and openai/summarize_from_feedback."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Any, NamedTuple

from sparsepo.data.pairing import PairBuilder, PlacedPair, best_and_worst_pairs
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.readers import PlacedRows
from sparsepo.data.records import (
    Number,
    Preference,
    Scored,
    String,
    Text,
    ZeroOrOne,
    as_record,
    parse_json,
    read_text,
)
from sparsepo.runtime.errors import UserError

NEWS = "a news article, not a post"


@dataclass(frozen=True)
class Post:
    """A post of Reddit."""

    subreddit: String
    title: String
    post: String

    @property
    def prompt(self) -> str:
        """As in the summarisation data of OpenAI (arXiv 2009.01325): what follows is the summary."""
        return f"SUBREDDIT: r/{self.subreddit}\n\nTITLE: {self.title}\n\nPOST: {self.post}\n\nTL;DR:"


@dataclass(frozen=True)
class RatedPost:
    """The data of ODPO: the summaries of a post and the rating of each."""

    responses: list[String]
    rewards: list[Number]


@dataclass(frozen=True)
class Axes:
    """What one person thought of a summary, from 1 to 7."""

    overall: Number | None = None


@dataclass(frozen=True)
class RatedSummary:
    """A summary with the ratings of one person."""

    text: String
    axes: Axes


@dataclass(frozen=True)
class AxisRow:
    """A row of the configuration `axis`; `info` holds a `Post`, or a news article without the field `post`."""

    info: dict[str, Any]
    summary: RatedSummary


@dataclass(frozen=True)
class ComparisonRow:
    """A row of the configuration `comparisons`: which of two summaries is better, 0 or 1."""

    info: dict[str, Any]
    summaries: list[Text]
    choice: ZeroOrOne


class Rating(NamedTuple):
    """One rating of a summary."""

    place: str
    prompt: str
    text: str
    value: float


def rated_post_rows(section: dict[str, Any]) -> PlacedRows:
    """The items of one JSON object {post: {"responses", "rewards"}} in the file `path`; posts are counted from 1."""
    path = section["path"]
    posts = parse_json(read_text(path), path, "one object {post: ...}")
    if not isinstance(posts, dict):
        raise UserError(f"{path}: one JSON object {{post: {{responses, rewards}}}} is expected, not a list or a value")
    for number, item in enumerate(posts.items(), start=1):
        yield f"{path}: post {number}", item


def rated_posts(rows: PlacedRows, builder: PairBuilder, prompts: PromptBuilder) -> Iterator[PlacedPair]:
    """The summary of best rating against that of worst, behind the post and "TL;DR:"."""
    ratings = []
    for place, (post, row) in rows:
        prompt, rated = as_record({"text": post}, Text, place).text, as_record(row, RatedPost, place)
        if len(rated.responses) != len(rated.rewards):
            counts = f"{len(rated.responses)} responses and {len(rated.rewards)} rewards"
            raise UserError(f"{place} has {counts}; each response needs one")
        for text, reward in zip(rated.responses, rated.rewards, strict=True):
            ratings.append(Rating(place, f"{prompt}\n\nTL;DR:", as_response(text), reward))
    return _best_and_worst(ratings, builder)


def axis_pairs(rows: PlacedRows, builder: PairBuilder, prompts: PromptBuilder) -> Iterator[PlacedPair]:
    """The same of rows {"info", "summary": {"text", "axes": {"overall"}}}, one for each rating."""
    ratings = []
    for place, row in rows:
        record = as_record(row, AxisRow, place)
        post, overall = _post(record.info, place), record.summary.axes.overall
        if post is None:
            builder.drop(NEWS, place)
        elif overall is None:
            builder.drop("no overall rating", place)
        else:
            text = as_response(record.summary.text)
            ratings.append(Rating(place, post.prompt, text, overall))
    return _best_and_worst(ratings, builder)


def comparison_pairs(rows: PlacedRows, builder: PairBuilder, prompts: PromptBuilder) -> Iterator[PlacedPair]:
    """The chosen against the other summary of rows {"info", "summaries": [{"text"}, {"text"}], "choice"}."""
    for place, row in rows:
        record = as_record(row, ComparisonRow, place)
        if len(record.summaries) != 2:
            raise UserError(f"{place}: field 'summaries' must have two summaries, not {len(record.summaries)}")
        post = _post(record.info, place)
        if post is None:
            builder.drop(NEWS, place)
        else:
            texts = [as_response(summary.text) for summary in record.summaries]
            pair = Preference(post.prompt, texts[record.choice], texts[1 - record.choice])
            yield PlacedPair(place, "", pair)


def as_response(summary: str) -> str:
    """A summary as a response: with the one space that its prompt lacks, and no white space at its end."""
    return f" {summary.strip()}"


def _post(info: dict[str, Any], place: str) -> Post | None:
    """None for a news article, of which the validation data have some."""
    return None if info.get("post") is None else as_record(info, Post, f"{place}: info")


def _best_and_worst(ratings: list[Rating], builder: PairBuilder) -> Iterator[PlacedPair]:
    """One pair of each prompt; a summary that was rated several times has the mean of its ratings."""
    groups: dict[tuple[str, str], list[Rating]] = {}
    for rating in ratings:
        groups.setdefault((rating.prompt, rating.text), []).append(rating)
    scored = [
        (group[0].place, Scored(prompt, text, mean(rating.value for rating in group)))
        for (prompt, text), group in groups.items()
    ]
    for place, pair in best_and_worst_pairs(scored, builder):
        yield PlacedPair(place, "", pair)
