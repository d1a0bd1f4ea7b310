"""A ranking of responses to the same prompt: each against each, by a judge of two."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from sparsepo.evaluation.judges import Judge


@dataclass(frozen=True)
class Tournament:
    """wins: of each response the mean preference in [0, 1] over its opponents. unjudged: comparisons of `compared` that
    the judge gave no verdict on, each counted as a tie."""

    wins: list[float]
    unjudged: int
    compared: int


def round_robin(judge: Judge, prompts: Sequence[str], texts: Sequence[str]) -> Tournament:
    r"""Every response against every other one to its prompt: $w_i = \frac{1}{K-1} \sum_{j \ne i} P(y_i \succ y_j)$.

    A judge of certain verdicts gives the share of games won; for any $P$ that is the preference over a uniform mixture
    of the others, an estimate of $P(y \succ \pi)$ where they are samples of $\pi$. An only response has 1/2.
    """
    groups: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(place)
    games = [game for places in groups.values() for game in combinations(places, 2)]
    firsts, seconds = [a for a, _ in games], [b for _, b in games]
    asked = [prompts[a] for a in firsts]
    verdicts = judge(asked, [texts[a] for a in firsts], [texts[b] for b in seconds]) if games else []
    wins = [0.0] * len(texts)
    for a, b, verdict in zip(firsts, seconds, verdicts, strict=True):
        share = 0.5 if verdict is None else verdict
        wins[a] += share
        wins[b] += 1 - share
    rivals = [len(groups[prompt]) - 1 for prompt in prompts]
    means = [won / others if others else 0.5 for won, others in zip(wins, rivals, strict=True)]
    return Tournament(means, verdicts.count(None), len(games))
