"""Judges: which of two responses is better, by a scorer, by entailment or by a chat model."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from sparsepo.config.scorers import JudgeConfig, ScorerJudge
from sparsepo.data.chat import TextOrChat
from sparsepo.evaluation.chat_client import ChatClient
from sparsepo.evaluation.completions import Answer
from sparsepo.evaluation.scorers import Scorer, build_scorer, notes_of
from sparsepo.evaluation.verdicts import START_LENGTH, build_question, parse_verdict, why_no_verdict
from sparsepo.runtime.errors import one_line
from sparsepo.runtime.result_cache import ResultCache

Judge = Callable[[list[TextOrChat], list[str], list[str]], list[float | None]]
"""(prompts, a, b) -> for each the probability in [0, 1] that a is preferred to b; 1/2 is a tie, None no verdict.

Some have a method `take_notes`, see `scorers.cut_notes`.
"""


def build_judge(section: JudgeConfig, folder: Path, fitted_scorer: Path | None = None) -> Judge:
    """The judge that a section of the config describes; the answers of an endpoint are kept in `folder`.

    fitted_scorer: see `build_scorer`. Raises UserError for what the builder of its kind refuses.
    """
    if isinstance(section, ScorerJudge):
        preference = bradley_terry if section.scorer.kind == "reward_model" else prefer_greater
        return ScoreJudge(build_scorer(section.scorer, fitted_scorer), preference)
    return JUDGES[section.kind](folder, **section.model_dump(exclude={"kind"}))


def _nli_judge(_: Path, *, model: str, batch_size: int, pickled_weights: bool = False) -> Judge:
    from sparsepo.evaluation.nli import Entailment

    return ScoreJudge(Entailment(model, batch_size, pickled_weights=pickled_weights), prefer_greater)


def _endpoint_judge(folder: Path, *, asks: str, **settings: Any) -> Judge:
    return BothOrders(ChatJudge(ChatClient(cache=ResultCache(folder / "answers.jsonl"), **settings), asks))


JUDGES: dict[str, Callable[..., Judge]] = {"nli": _nli_judge, "endpoint": _endpoint_judge}


# --- by a score of each response


@dataclass(frozen=True)
class ScoreJudge:
    """Compares the scores of a and b; equal pairs of prompt and text are scored once, so equal texts always tie."""

    scorer: Scorer
    compare: Callable[[float, float], float]

    def __call__(self, prompts: list[TextOrChat], a: list[str], b: list[str]) -> list[float | None]:
        sides = [list(zip(map(str, prompts), texts, strict=True)) for texts in (a, b)]
        distinct = dict(zip(sides[0] + sides[1], [*prompts, *prompts], strict=True))
        values = self.scorer(list(distinct.values()), [text for _, text in distinct])
        scores = dict(zip(distinct, values, strict=True))
        return [self.compare(scores[first], scores[second]) for first, second in zip(*sides, strict=True)]

    def take_notes(self) -> list[str]:
        return notes_of(self.scorer)


def bradley_terry(a: float, b: float) -> float:
    r"""$\sigma(r_a - r_b)$, the model that reward models are trained under (Bradley and Terry 1952)."""
    return (1 + math.tanh((a - b) / 2)) / 2


def prefer_greater(a: float, b: float) -> float:
    """1 if a is greater, 1/2 if both are equal: differences of scores that are no log-odds have no other meaning."""
    return (a > b) + 0.5 * (a == b)


# --- by a chat model


@dataclass(frozen=True)
class BothOrders:
    """A judge that is asked in both orders of the responses, as it may favour a position; the mean of the two verdicts.

    Without a verdict in one of the orders there is none: the other alone would be biased.
    """

    judge: Judge

    def __call__(self, prompts: list[TextOrChat], a: list[str], b: list[str]) -> list[float | None]:
        return [None if None in order else sum(order) / 2 for order in self.in_both_orders(prompts, a, b)]

    def in_both_orders(
        self, prompts: list[TextOrChat], a: list[str], b: list[str]
    ) -> list[tuple[float | None, float | None]]:
        """The preference for each a when it is shown first, and when it is shown second; the judge is called once."""
        values = self.judge(prompts * 2, a + b, b + a)
        second = [None if value is None else 1 - value for value in values[len(prompts) :]]
        return list(zip(values[: len(prompts)], second, strict=True))

    def take_notes(self) -> list[str]:
        return notes_of(self.judge)


@dataclass(frozen=True)
class ChatJudge:
    """The verdicts of a chat model, asked once with a shown first."""

    chat: ChatClient
    asks: str
    _answers: list[Answer] = field(default_factory=list)

    def __call__(self, prompts: list[TextOrChat], a: list[str], b: list[str]) -> list[float | None]:
        questions = [build_question(self.asks, *texts) for texts in zip(prompts, a, b, strict=True)]
        answers = self.chat.answers(questions)
        self._answers.extend(answers)
        return [parse_verdict(answer) for answer in answers]

    def take_notes(self) -> list[str]:
        """Why answers since the last call have no verdict, with the start of one; and at which temperature they are."""
        answers = list(self._answers)
        self._answers.clear()
        without = [answer for answer in answers if parse_verdict(answer) is None]
        reasons = Counter(map(why_no_verdict, without))
        notes = [f"{count:,} of {len(answers):,} answers of the judge {reason}" for reason, count in reasons.items()]
        texts = {answer.is_refused: answer.text for answer in reversed(without) if answer.text}
        notes += [f"one without a verdict begins {one_line(texts[False][:START_LENGTH])!r}"] if False in texts else []
        notes += [f"a refusal of the service: {texts[True]}"] if True in texts else []
        if without and len(without) == len(answers):
            notes.append(f"the answers are kept in {self.chat.cache.path}: delete it to ask again")
        if not all(answer.at_temperature_0 for answer in answers):
            notes.append("the judge's model takes no temperature: its answers are at its own, and may vary")
        return notes


@dataclass(frozen=True)
class Tournament:
    """wins: the mean preference in [0, 1] of each response over its opponents. compared: the number of comparisons.
    unjudged: those without a verdict, each counted as a tie."""

    wins: list[float]
    unjudged: int
    compared: int


def round_robin(judge: Judge, prompts: Sequence[TextOrChat], texts: Sequence[str]) -> Tournament:
    r"""Every response against each other one to its prompt: $w_i = \frac{1}{K-1} \sum_{j \ne i} P(y_i \succ y_j)$.

    It is the preference over a uniform mixture of the others, an estimate of $P(y \succ \pi)$ where they are samples
    of $\pi$. The only response to a prompt has 1/2.
    """
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(map(str, prompts)):
        groups.setdefault(prompt, []).append(index)
    games = [game for indices in groups.values() for game in combinations(indices, 2)]
    columns = [prompts[a] for a, _ in games], [texts[a] for a, _ in games], [texts[b] for _, b in games]
    preferences = judge(*columns) if games else []
    sums = [0.0] * len(texts)
    for (a, b), preference in zip(games, preferences, strict=True):
        share = 0.5 if preference is None else preference
        sums[a] += share
        sums[b] += 1 - share
    opponents = [len(groups[prompt]) - 1 for prompt in map(str, prompts)]
    wins = [total / count if count else 0.5 for total, count in zip(sums, opponents, strict=True)]
    return Tournament(wins, preferences.count(None), len(games))
