"""Tests between systems: Holm's correction by hand, hand-made samples, and how often equal systems differ."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from sparsepo.evaluation.significance import holm, pairwise_differences, smallest_difference
from sparsepo.evaluation.statistics import MIN_PROMPTS, difference_estimate, seed_sample


def _one_seed(values):
    """values: prompt -> value."""
    return seed_sample(list(values.values()), list(values))


def _sample(rows):
    seeds, prompts = (places.ravel().tolist() for places in np.indices(np.shape(rows)))
    return seed_sample(np.ravel(rows).tolist(), prompts, seeds)


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
    samples = {name: _one_seed(values) for name, values in systems.items()}
    found = {(pair.a, pair.b): pair for pair in pairwise_differences(samples)}
    assert list(found) == [("a", "b"), ("a", "d"), ("b", "d"), ("c", "d")]
    assert (found["a", "b"].difference, found["a", "b"].prompts) == (0.75, 2)
    assert found["c", "d"].difference == -4.0


@pytest.mark.parametrize("prompts", [1, 2, MIN_PROMPTS - 1])
def test_few_prompts_are_not_tested(prompts):
    """Two prompts gave a mark: their bootstrap excludes 0 where both differ in one direction, at p = 0.5."""
    values = np.arange(prompts)
    (found,) = pairwise_differences({"a": _sample([values + 3.0]), "b": _sample([values * 1.01])})
    assert not found.is_tested and not found.is_significant


def test_p_of_one_seed_is_that_of_the_paired_t_test():
    differences = np.random.default_rng(5).normal(0.1, 1.0, size=300)
    (found,) = pairwise_differences({"a": _sample([differences]), "b": _sample([np.zeros(300)])})
    assert found.p == pytest.approx(ttest_1samp(differences, 0).pvalue)


def test_equal_differences_have_the_p_of_the_sign_test_and_equal_systems_one():
    base = np.arange(12.0)
    systems = {"a": _sample([base]), "b": _sample([base + 1]), "c": _sample([base])}
    first, same, _ = pairwise_differences(systems)
    assert first.p == 2 / 2**12 and same.p == 1.0


def test_a_clear_difference_is_real_and_noise_is_not():
    rng = np.random.default_rng(6)
    level = rng.normal(size=60)
    systems = {
        name: _sample([level + shift + 0.1 * rng.normal(size=60)])
        for name, shift in (("same", 0.0), ("alike", 0.0), ("better", 0.2))
    }
    found = {(pair.a, pair.b): pair for pair in pairwise_differences(systems)}
    assert not found["same", "alike"].is_significant
    assert all(found[name, "better"].is_significant and found[name, "better"].high < 0 for name in ("same", "alike"))


def test_holm_takes_back_what_a_single_test_would_call_real():
    noise = np.random.default_rng(7).normal(size=50)
    signal = (noise - noise.mean()) / noise.std() + 0.325  # 2.3 standard errors from 0
    systems = {"base": _sample([np.zeros(50)]), "one": _sample([signal])}
    (alone,) = pairwise_differences(systems)
    assert alone.p == alone.p_holm < 0.05 and alone.is_significant
    more = {name: _sample([np.roll(signal, at)]) for at, name in enumerate("abc", start=1)}
    among = pairwise_differences(systems | more)
    assert among[0].p == alone.p
    assert among[0].p_holm > 0.05 and not among[0].is_significant


def test_a_large_family_can_still_tell_systems_apart():
    """23 systems are 253 pairs."""
    base = np.random.default_rng(0).normal(size=40)
    systems = {str(at): _sample([base + 3.0 * at + np.roll(base, at + 1)]) for at in range(23)}
    assert all(pair.is_significant for pair in pairwise_differences(systems))


@pytest.mark.parametrize(("seeds", "deviation"), [(3, 0.0), (3, 0.5), (5, 0.5)])
def test_equal_methods_whose_trainings_vary_are_seldom_called_different(seeds, deviation):
    """With 3 seeds it was 65%. Four standard errors above 5% are 12.1%."""
    draw, trials, called = np.random.default_rng(0), 150, 0
    for _ in range(trials):
        hard = draw.normal(size=60)
        tables = {
            name: hard + deviation * draw.normal(size=(seeds, 1)) + 0.3 * draw.normal(size=(seeds, 60)) for name in "ab"
        }
        (pair,) = pairwise_differences({name: _sample(table) for name, table in tables.items()})
        called += pair.is_significant
    assert called / trials <= 0.121


def test_a_difference_beyond_the_variation_of_trainings_is_found():
    draw = np.random.default_rng(1)
    hard, level = draw.normal(size=100), {"a": 0.0, "b": 1.0}
    tables = {
        name: hard + at + 0.1 * draw.normal(size=(3, 1)) + draw.normal(size=(3, 100)) for name, at in level.items()
    }
    (pair,) = pairwise_differences({name: _sample(table) for name, table in tables.items()})
    assert pair.is_significant


@pytest.mark.parametrize(("seeds", "deviation"), [(1, 0.0), (3, 0.0), (3, 0.15), (5, 0.3)])
def test_the_smallest_difference_is_found_in_about_80_of_100_cases(seeds, deviation):
    """Independent scores of standard deviation 1 at 100 prompts. 400 draws: 72% to 88% are four standard errors."""
    draw, found, trials = np.random.default_rng(0), 0, 400
    difference = smallest_difference(100, seeds, 1, deviation)
    for _ in range(trials):
        tables = [draw.normal(size=100) + deviation * draw.normal(size=(seeds, 1)) for _ in "ab"]
        found += difference_estimate(_sample(tables[0] + difference), _sample(tables[1])).p_value() < 0.05
    assert 0.72 <= found / trials <= 0.88


def test_the_smallest_difference_of_one_seed_is_that_of_the_textbook():
    """(1.96 + 0.84) sqrt(2 / 10000) for many prompts; ten pairs have the level 0.005, of quantile 2.807."""
    assert smallest_difference(10_000, 1) == pytest.approx((1.95996 + 0.84162) * math.sqrt(2e-4), rel=1e-3)
    assert smallest_difference(10_000, 1, 10) == pytest.approx((2.80703 + 0.84162) * math.sqrt(2e-4), rel=1e-3)
