"""Tests between systems against all sign flips, Holm's correction by hand, and the t test."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from sparsepo.evaluation.significance import holm, pairwise_differences, permutation_p


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=7))
def test_p_is_the_share_of_all_sign_flips_as_far_from_zero(differences):
    flips = [
        sum(sign * value for sign, value in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    far = sum(abs(flip) >= abs(sum(differences)) for flip in flips)
    assert permutation_p(differences) == pytest.approx(far / len(flips))


@pytest.mark.parametrize("shift", [0.02, 0.1, 0.15])
def test_p_of_many_normal_differences_is_about_that_of_the_t_test(shift):
    differences = np.random.default_rng(5).normal(shift, 1.0, size=300)
    assert permutation_p(differences.tolist()) == pytest.approx(ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_no_p_is_zero():
    assert permutation_p([1.0] * 100) == pytest.approx(2 / 5000)


def test_fewer_than_two_differences_have_no_p():
    assert math.isnan(permutation_p([])) and math.isnan(permutation_p([3.0]))


def test_holm_by_hand():
    # In order: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_what_could_not_be_tested_does_not_count_in_holm():
    found = holm([math.nan, 0.02, 0.03])
    assert math.isnan(found[0]) and found[1:] == pytest.approx([0.04, 0.04])


def test_every_pair_is_compared_at_the_prompts_that_both_have():
    systems = {
        "a": {"p": 1.0, "q": 2.0, "r": 9.0},
        "b": {"q": 1.0, "p": 0.5},
        "c": {"s": 0.0},
        "d": {"p": 1.0, "s": 4.0},
    }
    found = {(pair.a, pair.b): pair for pair in pairwise_differences(systems)}
    assert list(found) == [("a", "b"), ("a", "d"), ("b", "d"), ("c", "d")]
    assert (found["a", "b"].difference, found["a", "b"].prompts) == (0.75, 2)
    assert (found["a", "b"].low, found["a", "b"].high) == (0.5, 1.0)
    assert found["a", "b"].p == found["a", "b"].p_holm == 0.5
    assert found["c", "d"].difference == -4.0


def test_a_pair_that_shares_one_number_is_neither_tested_nor_real():
    (found,) = pairwise_differences({"a": {0: 3.0}, "b": {0: 1.0}})
    assert found.difference == 2.0
    assert not found.is_tested and not found.is_significant and not found.excludes_zero


def test_a_clear_difference_is_real_and_noise_is_not():
    rng = np.random.default_rng(6)
    level = rng.normal(size=60)
    systems = {
        name: dict(enumerate(level + shift + 0.1 * rng.normal(size=60)))
        for name, shift in (("same", 0.0), ("alike", 0.0), ("better", 0.2))
    }
    found = {(pair.a, pair.b): pair for pair in pairwise_differences(systems)}
    assert not found["same", "alike"].is_significant and not found["same", "alike"].excludes_zero
    for pair in (found["same", "better"], found["alike", "better"]):
        assert pair.is_significant and pair.excludes_zero and pair.high < 0


def test_holm_takes_back_what_a_single_test_would_call_real():
    noise = np.random.default_rng(7).normal(size=50)
    signal = (noise - noise.mean()) / noise.std() + 0.325  # 2.3 standard errors from 0
    systems = {"base": dict.fromkeys(range(50), 0.0), "one": dict(enumerate(signal))}
    (alone,) = pairwise_differences(systems)
    assert alone.p == alone.p_holm < 0.05 and alone.excludes_zero and alone.is_significant
    among = pairwise_differences(
        systems | {name: dict(enumerate(np.roll(signal, at))) for at, name in enumerate("abc", start=1)}
    )
    assert among[0].p == alone.p
    assert among[0].p_holm > 0.05 and among[0].excludes_zero and not among[0].is_significant


def test_a_large_family_can_still_tell_systems_apart():
    """23 systems are 253 pairs: with 4,999 flips no p could fall below 253 * 2 / 5000 = 0.1 after the correction."""
    differences = [1.0 + at / 100 for at in range(40)]
    assert permutation_p(differences) == pytest.approx(2 / 5000)
    assert permutation_p(differences, tests=253) * 253 == pytest.approx(0.025, rel=1e-2)
