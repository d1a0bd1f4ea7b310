"""Intervals against hand-made numbers, all resamples and simulation."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, ttest_1samp
from sklearn.metrics import roc_auc_score

from sparsepo.evaluation.statistics import (
    Interval,
    auc_interval,
    distinct_n,
    group_means,
    mean_interval,
    paired_difference,
    student_interval,
)
from sparsepo.runtime.errors import UserError


def test_the_interval_of_a_large_sample_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).exponential(size=2000)
    error = values.std() / math.sqrt(len(values))
    for level in (0.8, 0.95):
        found = mean_interval(values.tolist(), level=level)
        width = norm.ppf((1 + level) / 2) * error
        assert found.mean == pytest.approx(values.mean())
        assert found.low == pytest.approx(values.mean() - width, abs=0.1 * width)
        assert found.high == pytest.approx(values.mean() + width, abs=0.1 * width)


def test_two_values_give_the_bounds_that_can_be_counted_by_hand():
    # The resamples are {0, 0}, {0, 1}, {1, 0}, {1, 1}: a quarter of them has each extreme mean.
    assert mean_interval([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)
    assert mean_interval([0.0, 1.0], level=0.4) == Interval(0.5, 0.5, 0.5)


def test_groups_are_drawn_whole():
    # Two groups of means 0 and 1 and sizes 1 and 3: the drawn means are 0, 3/4 and 1.
    found = mean_interval([0.0, 1.0, 1.0, 1.0], groups=["p", "q", "q", "q"])
    assert found == Interval(0.75, 0.0, 1.0)
    found = mean_interval([0.0, 1.0, 1.0, 1.0], groups=["p", "q", "q", "q"], level=0.4)
    assert found == Interval(0.75, 0.75, 0.75)


def test_copies_of_each_value_in_one_group_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=40)
    single = mean_interval(values.tolist())
    copied = mean_interval(np.repeat(values, 9).tolist(), groups=np.repeat(np.arange(40), 9).tolist())
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))
    independent = mean_interval(np.repeat(values, 9).tolist())
    assert independent.high - independent.low < 0.5 * (copied.high - copied.low)


def test_grouped_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        prompts = np.repeat(np.arange(40), 4)
        values = rng.normal(size=40)[prompts] + 0.5 * rng.normal(size=160)
        found = mean_interval(values, groups=prompts, resamples=400, seed=trial)
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_where_samples_of_a_group_stand_in_the_list_does_not_matter():
    values, groups = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [7, 7, 3, 3, 5, 5]
    shuffled = [0, 2, 4, 1, 3, 5]
    found = mean_interval([values[i] for i in shuffled], groups=[groups[i] for i in shuffled])
    assert found == mean_interval(values, groups=groups)


def test_one_seed_gives_one_interval():
    values = list(np.random.default_rng(3).normal(size=30))
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


@pytest.mark.parametrize("groups", [None, [0, 0, 1], [5, 5, 5]])
def test_equal_values_give_an_interval_of_no_width(groups):
    assert mean_interval([0.1, 0.1, 0.1], groups=groups) == Interval(0.1, 0.1, 0.1)


def test_one_group_of_unequal_values_has_no_bounds():
    found = mean_interval([0.0, 1.0], groups=["only", "only"])
    assert found.mean == 0.5
    assert math.isnan(found.low) and math.isnan(found.high)


def test_a_mean_of_nothing_is_a_users_mistake():
    with pytest.raises(UserError, match="at least one value"):
        mean_interval([])


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError):
        mean_interval([0.0, 1.0, 2.0], groups=[0, 1])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(1, 8))
def test_the_mean_lies_between_bounds_that_lie_between_the_extremes(values, groups):
    found = mean_interval(values, groups=[i % groups for i in range(len(values))], resamples=50)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    if not math.isnan(found.low):
        assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_group_means_are_those_of_each_label():
    assert group_means([1.0, 5.0, 2.0, 3.0], ["a", "b", "a", "b"]) == {"a": 1.5, "b": 4.0}
    with pytest.raises(ValueError):
        group_means([1.0, 2.0], ["a"])


def test_paired_bounds_are_the_percentiles_of_all_resamples():
    a, b = {1: 0.0, 2: 7.0, 3: 1.0, 4: 2.0}, {4: -2.0, 3: 2.0, 2: 4.0, 1: 0.0}
    differences = [0.0, 3.0, -1.0, 4.0]
    means = sorted(sum(drawn) / 4 for drawn in itertools.product(differences, repeat=4))  # 256 equally likely
    found = paired_difference(a, b)
    assert found.mean == 1.5
    assert (found.low, found.high) == (means[6], means[-7])  # 2.5% of 256 is 6.4


def test_what_is_hard_for_both_systems_cancels_in_a_paired_difference():
    rng = np.random.default_rng(4)
    hard = rng.normal(scale=10, size=200)
    a = dict(enumerate(hard + 0.5 + 0.1 * rng.normal(size=200)))
    b = dict(enumerate(hard))
    found = paired_difference(a, b)
    assert 0.45 < found.low < 0.5 < found.high < 0.55


def test_only_labels_that_both_have_are_paired():
    found = paired_difference({"p": 1.0, "q": 5.0, "only a": 100.0}, {"q": 3.0, "only b": -100.0, "p": 0.0})
    assert found == Interval(1.5, 1.0, 2.0)
    with pytest.raises(UserError, match="at least one value"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_one_shared_label_has_a_difference_and_no_bounds():
    found = paired_difference({0: 3.0}, {0: 1.0})
    assert found.mean == 2.0 and math.isnan(found.low) and math.isnan(found.high)


def test_the_interval_over_two_seeds_is_twelve_standard_errors_to_each_side():
    found = student_interval([1.0, 3.0])  # standard error 1, one degree of freedom
    assert found.mean == 2.0
    assert (found.low, found.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


def test_the_interval_over_seeds_is_that_of_scipys_t_test():
    means = [0.31, 0.35, 0.30, 0.41]
    found, expected = student_interval(means), ttest_1samp(means, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_equal_seeds_give_an_interval_of_no_width():
    assert student_interval([0.25, 0.25, 0.25]) == Interval(0.25, 0.25, 0.25)


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


def test_an_auc_of_one_group_has_no_bounds_and_of_one_kind_is_a_users_mistake():
    found = auc_interval([True, False], [1.0, 0.0], ["a", "a"])
    assert found.mean == 1.0 and math.isnan(found.low) and math.isnan(found.high)
    with pytest.raises(UserError, match="items of both kinds"):
        auc_interval([True, True], [1.0, 0.0], [0, 1])
