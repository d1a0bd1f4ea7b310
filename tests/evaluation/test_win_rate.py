"""Win rates counted by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize

from sparsepo.evaluation.judges import BothOrders
from sparsepo.evaluation.win_rate import C, check_chosen, length_controlled, win_rate
from sparsepo.runtime.errors import UserError

PROMPTS, OURS, THEIRS = ["p", "p", "q", "q"], ["a", "b", "c", "d"], ["x", "x", "y", "y"]


def fixed(*values):
    return lambda prompts, a, b: list(values[: len(prompts)])


def test_win_rate_is_the_preference_of_each_response_with_its_prompt_as_group():
    found = win_rate(fixed(1.0, 0.5, 0.0, 0.25), PROMPTS, OURS, THEIRS, PROMPTS)
    assert found.measurement == {"values": [1.0, 0.5, 0.0, 0.25], "groups": PROMPTS}
    assert found.notes == []
    assert found.length_controlled["values"] == pytest.approx([0.4375])  # all are as long as their opponents


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
        check_chosen(PROMPTS, ["x", "x", " ", "y"])


def test_an_empty_response_is_judged():
    assert win_rate(fixed(0.0), ["p"], [""], ["x"], ["p"]).measurement["values"] == [0.0]


def planted(bias, skill, n=4000):
    """Preferences of a judge of this bias for length, of responses 30 characters longer on average."""
    random = np.random.default_rng(0)
    longer_by = random.normal(30, 60, n).round()
    probability = 1 / (1 + np.exp(-(skill + bias * np.tanh(longer_by / longer_by.std()))))
    return (random.random(n) < probability).astype(float), longer_by


@pytest.mark.parametrize(("bias", "skill"), [(2.0, 0.0), (2.0, 1.0), (0.0, 0.5), (-1.0, 0.0)])
def test_at_equal_lengths_the_planted_skill_remains(bias, skill):
    preferences, longer_by = planted(bias, skill)
    found = length_controlled(preferences, range(len(preferences)), longer_by)
    expected, (value,) = 1 / (1 + np.exp(-skill)), found["values"]
    assert abs(value - expected) < 3 * found["stderr"] and found["stderr"] < 0.015
    if bias == 2.0 and skill == 0.0:
        assert preferences.mean() > 0.6  # the plain win rate


def test_the_fit_is_the_minimum_of_the_penalised_loss_for_soft_preferences():
    preferences, longer_by = np.array([0.9, 0.2, 0.5, 1.0, 0.3, 0.0]), np.array([5, -3, 1, 9, -8, 2])
    x = np.tanh(longer_by / np.sqrt(((longer_by - longer_by.mean()) ** 2).mean()))

    def loss(weights):
        logit = weights[0] + weights[1] * x
        return (np.logaddexp(0, logit) - preferences * logit).sum() + weights[1] ** 2 / (2 * C)

    theta = minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x[0]
    found = length_controlled(preferences, range(6), longer_by)
    assert found["values"] == pytest.approx([1 / (1 + np.exp(-theta))], abs=1e-6)


def test_samples_of_a_prompt_that_repeat_each_other_make_nothing_surer():
    preferences, longer_by = planted(1.0, 0.3, n=200)
    once = length_controlled(preferences, range(200), longer_by)
    copies = [np.repeat(column, 4) for column in (preferences, np.arange(200), longer_by)]
    assert length_controlled(*copies)["stderr"] == pytest.approx(once["stderr"], rel=1e-3)


def test_without_longer_and_shorter_responses_nothing_is_controlled():
    assert length_controlled([1.0, 0.0, 1.0], "abc", [3, 0, 8]) is None
    assert length_controlled([1.0, 1.0, 0.0, 0.0], "abcd", [5, 3, -2, -9]) is None  # the longer one always wins
    assert length_controlled([1.0, 1.0, 1.0, 0.0], "abcd", [5, -3, 2, 9]) is None
    assert length_controlled([1.0, 0.0, 1.0, 0.0], "abcd", [5, 3, -2, -9]) is not None
    assert length_controlled([1.0, 1.0], "ab", [-3, 8])["values"] == [1.0]
    found = win_rate(fixed(1.0, 0.0), ["p", "q"], ["long", "longer"], ["x", "y"], ["p", "q"])
    assert found.length_controlled is None
    assert found.notes == [
        "no length-controlled win rate: all responses are longer, or all shorter, or length alone decides"
    ]
