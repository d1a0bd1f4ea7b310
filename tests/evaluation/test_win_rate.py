"""Win rates counted by hand."""

import pytest

from sparsepo.evaluation.judges import BothOrders
from sparsepo.evaluation.win_rate import win_rate
from sparsepo.runtime.errors import UserError

PROMPTS, OURS, THEIRS = ["p", "p", "q", "q"], ["a", "b", "c", "d"], ["x", "x", "y", "y"]


def fixed(*values):
    return lambda prompts, a, b: list(values[: len(prompts)])


def test_win_rate_is_the_preference_of_each_response_with_its_prompt_as_group():
    found = win_rate(fixed(1.0, 0.5, 0.0, 0.25), PROMPTS, OURS, THEIRS, PROMPTS)
    assert found.measurement == {"values": [1.0, 0.5, 0.0, 0.25], "groups": PROMPTS}
    assert found.notes == []


def test_win_rate_is_that_of_the_responses_not_of_what_they_are_compared_with():
    def longer(prompts, a, b):
        return [float(len(one) > len(two)) for one, two in zip(a, b, strict=True)]

    for judge in (longer, BothOrders(longer)):
        assert win_rate(judge, ["p"], ["longer"], ["long"], [0]).measurement["values"] == [1.0]


def test_pairs_without_a_verdict_are_left_out_with_their_groups_and_counted():
    found = win_rate(fixed(None, 1.0, None, 0.0), PROMPTS, OURS, THEIRS, PROMPTS)
    assert found.measurement == {"values": [1.0, 0.0], "groups": ["p", "q"]}
    assert found.notes == ["2 of 4 pairs are left out: the judge gave no verdict that can be read"]


def test_position_bias_counts_pairs_whose_verdict_changes_with_the_order():
    # first: a wins twice, a tie, none; with the sides exchanged: a wins, a loses, a tie, a wins
    judge = BothOrders(fixed(1.0, 1.0, 0.5, None, 0.0, 1.0, 0.5, 0.0))
    found = win_rate(judge, PROMPTS, OURS, THEIRS, PROMPTS)
    assert found.measurement == {"values": [1.0, 0.5, 0.5], "groups": ["p", "p", "q"]}
    assert found.notes == [
        "1 of 4 pairs are left out: the judge gave no verdict that can be read",
        "exchanging the two responses changed the judge's verdict in 1 of 3 pairs (33.3%)",
    ]


def test_nothing_to_compare_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="no verdict on any of 4 pairs"):
        win_rate(fixed(None, None, None, None), PROMPTS, OURS, THEIRS, PROMPTS)
    with pytest.raises(UserError, match="at least one response"):
        win_rate(fixed(), [], [], [], [])
    with pytest.raises(UserError, match="'q' has none"):
        win_rate(fixed(), PROMPTS, OURS, ["x", "x", " ", "y"], PROMPTS)


def test_an_empty_response_is_judged():
    assert win_rate(fixed(0.0), ["p"], [""], ["x"], ["p"]).measurement["values"] == [0.0]
