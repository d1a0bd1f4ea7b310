"""The win rate: how often a judge prefers sampled responses to those they are compared with."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsepo.data.chat import TextOrChat, plain_text
from sparsepo.evaluation.judges import BothOrders, Judge
from sparsepo.evaluation.scorers import notes_of
from sparsepo.runtime.errors import UserError


@dataclass(frozen=True)
class WinRate:
    """measurement: {"values": the preference for each response in [0, 1], "groups": its prompt}. notes: about the
    judge, for the reader of a table."""

    measurement: dict[str, list[Any]]
    notes: list[str]


def win_rate(
    judge: Judge, prompts: list[TextOrChat], responses: list[str], against: list[str], groups: Sequence[Hashable]
) -> WinRate:
    """Preference of each response over `against`, to the same prompt; the win rate is the mean, a tie counts 1/2.

    A pair without a verdict has no value, and a note says how many there are. For a judge of both orders, a note says
    for how many pairs exchanging the responses changed the verdict. Raises UserError without any response, for a prompt
    without a text to compare with, and when no pair has a verdict.
    """
    if not prompts:
        raise UserError("a win rate needs at least one response, and there are none")
    for prompt, text in zip(prompts, against, strict=True):
        if not text.strip():
            raise UserError(f"a win rate needs a chosen response for each prompt; {plain_text(prompt)[:60]!r} has none")
    orders = judge.in_both_orders(prompts, responses, against) if isinstance(judge, BothOrders) else []
    values = [None if None in order else sum(order) / 2 for order in orders] or judge(prompts, responses, against)
    judged = [(value, group) for value, group in zip(values, groups, strict=True) if value is not None]
    lost = len(values) - len(judged)
    if not judged:
        reasons = "; ".join(notes_of(judge))
        raise UserError(f"the judge gave no verdict on any of {lost} pairs" + (f": {reasons}" if reasons else ""))
    notes = [f"{lost} of {len(values)} pairs are left out: the judge gave no verdict that can be read"] * bool(lost)
    if orders:
        changed = sum(first != second for first, second in orders if None not in (first, second))
        share = f"{changed} of {len(judged)} pairs ({changed / len(judged):.1%})"
        notes.append(f"exchanging the two responses changed the judge's verdict in {share}")
    return WinRate({"values": [value for value, _ in judged], "groups": [group for _, group in judged]}, notes)
