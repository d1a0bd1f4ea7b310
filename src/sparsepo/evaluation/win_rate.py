"""The win rate: how often a judge prefers sampled responses to those they are compared with."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from sparsepo.data.chat import TextOrChat, plain_text
from sparsepo.evaluation.judges import BothOrders, Judge
from sparsepo.evaluation.scorers import notes_of
from sparsepo.runtime.errors import UserError

C = 100.0  # weak: it keeps the coefficient of the length finite where the longer response always wins


@dataclass(frozen=True)
class WinRate:
    """measurement: {"values": the preference for each response in [0, 1], "groups": its prompt}. length_controlled: one
    number with its standard error, or None. notes: about the judge, for the reader of a table."""

    measurement: dict[str, list[Any]]
    length_controlled: dict[str, Any] | None
    notes: list[str]


def win_rate(
    judge: Judge, prompts: list[TextOrChat], responses: list[str], against: list[str], groups: Sequence[Hashable]
) -> WinRate:
    """Preference of each response over `against`, to the same prompt; the win rate is the mean, a tie counts 1/2.

    A pair without a verdict has no value, and a note says how many there are. For a judge of both orders, a note says
    for how many pairs exchanging the responses changed the verdict. Raises UserError without any response, and when no
    pair has a verdict.
    """
    if not prompts:
        raise UserError("a win rate needs at least one response, and there are none")
    orders = judge.in_both_orders(prompts, responses, against) if isinstance(judge, BothOrders) else []
    values = [None if None in order else sum(order) / 2 for order in orders] or judge(prompts, responses, against)
    longer_by = [len(ours) - len(theirs) for ours, theirs in zip(responses, against, strict=True)]
    rows = zip(values, groups, longer_by, strict=True)
    judged = [(value, group, longer) for value, group, longer in rows if value is not None]
    lost = len(values) - len(judged)
    if not judged:
        reasons = "; ".join(notes_of(judge))
        raise UserError(f"the judge gave no verdict on any of {lost} pairs" + (f": {reasons}" if reasons else ""))
    notes = [f"{lost} of {len(values)} pairs are left out: the judge gave no verdict that can be read"] * bool(lost)
    if orders:
        changed = sum(first != second for first, second in orders if None not in (first, second))
        share = f"{changed} of {len(judged)} pairs ({changed / len(judged):.1%})"
        notes.append(f"exchanging the two responses changed the judge's verdict in {share}")
    measured, prompts_of, longer_by = (list(column) for column in zip(*judged, strict=True))
    controlled = length_controlled(measured, prompts_of, longer_by)
    if controlled is None:
        notes.append("no length-controlled win rate: all responses are longer, or all shorter, or length alone decides")
    return WinRate({"values": measured, "groups": prompts_of}, controlled, notes)


def check_chosen(prompts: Sequence[TextOrChat], chosen: Sequence[str]) -> None:
    """Raises UserError for a prompt without a chosen response."""
    for prompt, text in zip(prompts, chosen, strict=True):
        if not text.strip():
            raise UserError(f"a win rate needs a chosen response for each prompt; {plain_text(prompt)[:60]!r} has none")


def length_controlled(
    preferences: Sequence[float], groups: Sequence[Hashable], longer_by: Sequence[int]
) -> dict[str, Any] | None:
    r"""The win rate at equal lengths: {"values": [rate], "groups": [0], "stderr": its standard error}.

    $P(\text{win}_i) = \sigma(\theta + \phi \tanh(d_i / s_d))$ is fitted by logistic regression to preferences in
    [0, 1], with $d_i$ by how many characters response i is longer (`longer_by`) and $s_d$ their standard deviation;
    $\phi$ has a ridge penalty of strength 1/C. The win rate is $\sigma(\theta)$, what is left at $d = 0$. Its standard
    error is robust to preferences of one group (a prompt) being alike.

    Source: Dubois et al. 2024 (arXiv 2404.04475), AlpacaEval 2, without their term for the difficulty of an
    instruction, which is estimated from many models' answers to the same instructions. None where all differences have
    one sign, so that equal lengths lie outside what was seen, or where a difference separates all wins from all losses,
    so that the data do not bound the coefficients.
    """
    y, d = np.asarray(preferences, dtype=float), np.asarray(longer_by, dtype=float)
    if d.any() and not (d.min() < 0 < d.max()):
        return None
    x = np.tanh(d / d.std()) if d.any() else d
    wins, losses = x[y == 1], x[y == 0]
    if len(wins) and len(losses) and len(wins) + len(losses) == len(y) and d.any():
        if wins.min() >= losses.max() or wins.max() <= losses.min():
            return None
    if (y == y[0]).all():
        return {"values": [float(y[0])], "groups": [0], "stderr": None}
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)
    won = np.repeat([1, 0], len(y))
    model.fit(np.tile(x, 2)[:, None], won, sample_weight=np.concatenate([y, 1 - y]))
    theta, phi = model.intercept_[0], model.coef_[0, 0]
    p = expit(theta + phi * x)
    design = np.stack([np.ones_like(x), x], axis=1)
    bread = np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design + np.diag([0, 1 / C]))
    names = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    scores = np.zeros((len(names), 2))
    np.add.at(scores, [names[group] for group in groups], design * (y - p)[:, None])
    variance = (bread @ scores.T @ scores @ bread)[0, 0]
    rate = float(expit(theta))
    return {"values": [rate], "groups": [0], "stderr": rate * (1 - rate) * float(np.sqrt(variance))}
