"""Intervals against hand-made numbers, scipy and simulation. Their coverage is in benchmarks/coverage.py."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, ttest_1samp
from sklearn.metrics import roc_auc_score

from sparsepo.evaluation.statistics import (
    auc_interval,
    difference_estimate,
    distinct_n,
    interval_of_means,
    mean_estimate,
    mean_interval,
    seed_sample,
)
from sparsepo.runtime.errors import UserError


def _sample(rows):
    """One value of each prompt under each seed."""
    rows = np.asarray(rows, dtype=float)
    seeds, prompts = (places.ravel().tolist() for places in np.indices(rows.shape))
    return seed_sample(rows.ravel().tolist(), prompts, seeds)


def _bounds(found):
    return [found.low, found.high]


def _has_no_bounds(found):
    return math.isnan(found.low) and math.isnan(found.high)


# --- one seed


def test_the_interval_of_one_seed_without_skewness_is_that_of_scipys_t_test():
    values = [-3.0, -1.0, -0.5, 0.5, 1.0, 3.0]
    expected = ttest_1samp(values, 0).confidence_interval(0.9)
    assert _bounds(mean_interval(values, level=0.9)) == pytest.approx([expected.low, expected.high])


def test_a_skewed_sample_has_the_longer_arm_on_the_side_of_its_tail():
    """By Hall's transformation, solved: bounds are m - e u, where u = 3 (cbrt(1 + k (q - k / 6)) - 1) / k."""
    values = np.random.default_rng(0).exponential(size=40)
    deviation, error = values.std(), values.std(ddof=1) / math.sqrt(40)
    k = ((values - values.mean()) ** 3).mean() / deviation**3 / math.sqrt(40)
    q = 2.0226909  # t of 39 degrees
    roots = [3 * (np.cbrt(1 + k * (side * q - k / 6)) - 1) / k for side in (1, -1)]
    found = mean_interval(values.tolist())
    assert _bounds(found) == pytest.approx([values.mean() - error * root for root in roots], abs=1e-6)
    assert found.high - found.mean > found.mean - found.low


def test_the_interval_of_a_large_sample_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).exponential(size=2000)
    error = values.std() / math.sqrt(len(values))
    for level in (0.8, 0.95):
        found = mean_interval(values.tolist(), level=level)
        width = norm.ppf((1 + level) / 2) * error
        assert found.mean == pytest.approx(values.mean())
        assert found.low == pytest.approx(values.mean() - width, abs=0.1 * width)
        assert found.high == pytest.approx(values.mean() + width, abs=0.1 * width)


def test_copies_of_each_value_at_one_prompt_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=40)
    single = mean_interval(values.tolist())
    copied = mean_interval(np.repeat(values, 9).tolist(), np.repeat(np.arange(40), 9).tolist())
    assert _bounds(copied) == pytest.approx(_bounds(single))
    independent = mean_interval(np.repeat(values, 9).tolist())
    assert independent.high - independent.low < 0.5 * (copied.high - copied.low)


def test_a_prompt_with_more_values_weighs_more_as_in_a_ratio_of_sums():
    """Mean 2.25 of sums (2, 7) and counts (1, 3); the prompts are 2.25 + n / 2 (m - 2.25): 2.125 and 2.375."""
    found = mean_interval([2.0, 1.0, 2.0, 4.0], ["p", "q", "q", "q"])
    expected = ttest_1samp([2.125, 2.375], 0).confidence_interval(0.95)
    assert found.mean == 2.25
    assert _bounds(found) == pytest.approx([expected.low, expected.high])


def test_where_samples_of_a_prompt_stand_in_the_list_does_not_matter():
    values, prompts = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [7, 7, 3, 3, 5, 5]
    shuffled = [0, 2, 4, 1, 3, 5]
    found = mean_interval([values[i] for i in shuffled], [prompts[i] for i in shuffled])
    assert _bounds(found) == pytest.approx(_bounds(mean_interval(values, prompts)))


# --- several seeds


@pytest.mark.parametrize("copies", [3, 9])
def test_copies_of_one_seed_do_not_narrow_the_interval(copies):
    """Prompts are the same for all seeds. They were counted anew for each: 0.089 became 0.050 and 0.030."""
    values = np.random.default_rng(0).normal(size=500)
    single, several = mean_estimate(_sample([values])).interval(), mean_estimate(_sample([values] * copies)).interval()
    assert _bounds(several) == pytest.approx(_bounds(single), abs=1e-4)


def test_where_prompts_are_alike_the_interval_is_students_over_the_seeds():
    means = [0.31, 0.35, 0.30, 0.41]
    expected = ttest_1samp(means, 0).confidence_interval(0.95)
    found = mean_estimate(_sample([[mean] * 5 for mean in means])).interval()
    assert _bounds(found) == pytest.approx([expected.low, expected.high], abs=2e-4)


def test_the_variances_are_those_of_a_two_way_table_by_hand():
    """Rows 1 2 6 and 3 2 10: means 3 and 5, prompts 2 2 8, total 4, residuals 0 1 -1 and 0 -1 1."""
    estimate = mean_estimate(_sample([[1, 2, 6], [3, 2, 10]]))
    assert (estimate.mean, estimate.prompt_variance, estimate.prompt_degrees) == (4.0, 12 / 3, 2)
    (term,) = estimate.seed_terms
    assert (term.observed, term.noise, term.degrees) == (2 / 2, pytest.approx(4 / 2 / (3 * 2)), 1)


def test_with_more_seeds_the_interval_narrows_to_that_of_the_prompts():
    draw = np.random.default_rng(3)
    prompts, trainings = draw.normal(size=100), 0.5 * draw.normal(size=(200, 1))
    widths = [np.ptp(_bounds(mean_estimate(_sample(prompts + trainings[:seeds])).interval())) for seeds in (3, 20, 200)]
    alone = np.ptp(_bounds(mean_interval(prompts.tolist())))
    assert widths[0] > widths[1] > widths[2] > alone and widths[2] == pytest.approx(alone, rel=0.1)


def test_a_seed_that_lacks_a_prompt_counts_with_the_mean_of_its_others():
    sample = seed_sample([1.0, 2.0, 5.0], ["p", "q", "p"], [0, 0, 1])
    estimate = mean_estimate(sample)
    assert estimate.mean == (1.5 + 5.0) / 2 and estimate.prompts == 2


def _covered(seeds, prompts, seed_deviation, noise, trials=150):
    draw = np.random.default_rng(seeds)
    hits = 0
    for _ in range(trials):
        table = seed_deviation * draw.normal(size=(seeds, 1)) + draw.normal(size=prompts)
        found = mean_estimate(_sample(table + noise * draw.normal(size=(seeds, prompts)))).interval()
        hits += found.low <= 0 <= found.high
    return hits / trials


@pytest.mark.parametrize(("seeds", "deviation"), [(3, 0.0), (3, 0.5), (5, 0.15)])
def test_intervals_of_several_seeds_cover_the_mean_of_new_seeds_and_prompts(seeds, deviation):
    """It was 73% with 3 seeds and 62% with 5. Four standard errors below 95% are 87.9%."""
    assert _covered(seeds, 60, deviation, 0.3) >= 0.879


# --- samples that are too small


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [0.0] * 12, [1.0] * 12])
def test_equal_values_have_no_bounds(values):
    """No spread was seen, so it is not known how far the mean may be off. It was an interval of no width."""
    assert _has_no_bounds(mean_interval(values))


@pytest.mark.parametrize("wins", [0, 1, 6, 12])
def test_a_share_has_wilsons_interval_also_at_0_and_1(wins):
    """0 of 12 was 0 with no width."""
    found = mean_interval([1.0] * wins + [0.0] * (12 - wins), share=True)
    expected = binomtest(wins, 12).proportion_ci(0.95, "wilson")
    assert _bounds(found) == pytest.approx([expected.low, expected.high])


def test_more_seeds_of_the_same_prompts_do_not_narrow_a_share_of_0():
    found = mean_interval([0.0] * 36, [*range(12)] * 3, np.repeat([0, 1, 2], 12).tolist(), share=True)
    assert found.high == pytest.approx(binomtest(0, 12).proportion_ci(0.95, "wilson").high)


def test_one_prompt_has_no_bounds_under_any_number_of_seeds():
    assert _has_no_bounds(mean_interval([0.0, 1.0], ["only", "only"]))
    assert _has_no_bounds(mean_interval([0.0, 1.0, 3.0], ["only"] * 3, [0, 1, 2]))


def test_a_mean_of_nothing_is_a_users_mistake():
    with pytest.raises(UserError, match="at least one value"):
        mean_interval([])


def test_prompts_of_another_number_are_refused():
    with pytest.raises(ValueError, match="3 values"):
        mean_interval([0.0, 1.0, 2.0], [0, 1])


@given(st.lists(st.integers(-100, 100), min_size=2, max_size=30), st.integers(2, 8), st.integers(1, 3))
def test_the_mean_lies_between_its_bounds(values, prompts, seeds):
    found = mean_interval(values, [i % prompts for i in range(len(values))], [i % seeds for i in range(len(values))])
    assert math.isnan(found.low) or found.low <= found.mean <= found.high


# --- differences


def test_a_difference_of_one_seed_each_is_a_paired_t_test():
    a, b = [0.0, 7.0, 1.0, 2.0], [0.0, 4.0, 2.0, -2.0]
    estimate, expected = difference_estimate(_sample([a]), _sample([b])), ttest_1samp(np.subtract(a, b), 0)
    found, bounds = estimate.interval(), expected.confidence_interval(0.95)
    assert found.mean == 1.5 and _bounds(found) == pytest.approx([bounds.low, bounds.high])
    assert estimate.p_value() == pytest.approx(expected.pvalue)


def test_what_is_hard_for_both_systems_cancels():
    draw = np.random.default_rng(4)
    hard = draw.normal(scale=10, size=200)
    found = difference_estimate(_sample([hard + 0.5 + 0.1 * draw.normal(size=200)]), _sample([hard])).interval()
    assert 0.45 < found.low < 0.5 < found.high < 0.55


def test_only_prompts_that_both_have_are_compared():
    a = seed_sample([1.0, 5.0, 100.0], ["p", "q", "only a"])
    b = seed_sample([3.0, -100.0, 0.0], ["q", "only b", "p"])
    estimate = difference_estimate(a, b)
    assert (estimate.mean, estimate.prompts) == (1.5, 2)
    with pytest.raises(UserError, match="prompts that both"):
        difference_estimate(seed_sample([1.0], ["a"]), seed_sample([1.0], ["b"]))


def test_one_shared_prompt_has_a_difference_and_no_bounds():
    found = difference_estimate(_sample([[3.0]]), _sample([[1.0]])).interval()
    assert found.mean == 2.0 and _has_no_bounds(found)


def test_a_difference_has_the_seed_terms_of_both_sides_and_none_of_a_single_seed():
    a, b = [[1, 2, 6], [3, 2, 10]], [[1, 1, 1], [2, 3, 4], [0, 5, 1]]
    both = difference_estimate(_sample(a), _sample(b)).seed_terms
    assert both == mean_estimate(_sample(a)).seed_terms + mean_estimate(_sample(b)).seed_terms
    assert difference_estimate(_sample(a), _sample(b[:1])).seed_terms == both[:1]


# --- numbers without single items


def test_the_interval_over_two_seeds_is_twelve_standard_errors_to_each_side():
    found = interval_of_means([1.0, 3.0], [None, None])  # standard error 1, one degree of freedom
    assert found.mean == 2.0
    assert _bounds(found) == pytest.approx([2 - 12.7062, 2 + 12.7062], abs=1e-3)


def test_the_standard_error_of_one_number_gives_the_normal_interval():
    assert _bounds(interval_of_means([10.0], [2.0])) == pytest.approx(norm.interval(0.95, 10, 2))


def test_the_error_of_the_same_questions_is_not_divided_by_the_number_of_seeds():
    """Equal scores of three trainings: they were an interval of no width."""
    assert _bounds(interval_of_means([10.0] * 3, [2.0] * 3)) == pytest.approx(norm.interval(0.95, 10, 2))


def test_numbers_without_errors_have_no_bounds_where_they_are_one_or_equal():
    assert _has_no_bounds(interval_of_means([0.25], [None])) and _has_no_bounds(interval_of_means([0.25] * 3, []))


# --- distinct n-grams


def test_distinct_n_counts_unique_over_all_ngrams_of_all_responses():
    responses = [[1, 2, 1, 2], [1, 2]]
    assert distinct_n(responses, 1) == 2 / 6
    assert distinct_n(responses, 2) == 2 / 4  # (1, 2) three times, (2, 1) once; none spans both
    assert distinct_n([["a", "b", "c"]], 3) == 1.0


@pytest.mark.parametrize("responses", [[], [[]], [[1], [2]]])
def test_distinct_2_of_responses_without_a_bigram_is_zero(responses):
    assert distinct_n(responses, 2) == 0.0


def test_the_module_does_not_import_torch():
    code = "import sys, sparsepo.evaluation.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- AUC


@pytest.mark.parametrize("seed", range(4))
def test_the_auc_is_that_of_scikit_learn_with_ties(seed):
    draw = np.random.default_rng(seed)
    labels, scores = draw.integers(0, 2, 80).astype(bool), draw.integers(0, 5, 80)
    found = auc_interval(labels, scores, np.arange(80) // 8)
    assert found.mean == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.low < found.mean < found.high


def test_the_interval_of_an_auc_is_that_of_whole_groups_drawn_anew():
    """Against scikit-learn on 400 resamples written out, of other random numbers."""
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 6)
    labels = draw.random(150) < 0.3
    scores = draw.normal(size=150) + 0.5 * labels + draw.normal(size=25)[groups]
    values = []
    for _ in range(400):
        items = np.concatenate([np.flatnonzero(groups == group) for group in draw.integers(0, 25, 25)])
        values.append(roc_auc_score(labels[items], scores[items]))
    found = auc_interval(labels, scores, groups)
    assert [found.low, found.high] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.02)


def test_an_auc_of_1_in_every_resample_has_no_bounds():
    """The resamples are all 1, which says nothing of how far below it the true AUC may be; they were the bounds."""
    found = auc_interval([True, False] * 12, [1.0, 0.0] * 12, np.arange(24) // 2)
    assert found.mean == 1.0 and math.isnan(found.low) and math.isnan(found.high)


def test_an_auc_of_one_group_has_no_bounds_and_of_one_kind_is_a_users_mistake():
    found = auc_interval([True, False], [1.0, 0.0], ["a", "a"])
    assert found.mean == 1.0 and math.isnan(found.low) and math.isnan(found.high)
    with pytest.raises(UserError, match="items of both kinds"):
        auc_interval([True, True], [1.0, 0.0], [0, 1])
