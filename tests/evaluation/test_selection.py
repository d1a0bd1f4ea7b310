"""The point of a grid is the one of best validation mean, by numbers made by hand."""

import pytest

from sparsepo.evaluation.significance import select_point
from sparsepo.runtime.errors import UserError


def _measured(*values, metric="reward", variant=""):
    return {variant: {metric: {"values": list(values), "groups": list(range(len(values)))}}}


def test_the_highest_mean_is_chosen_or_the_lowest_where_lower_is_better():
    points = {"0.1": [_measured(0.2, 0.4)], "0.5": [_measured(0.9, 0.1)], "1": [_measured(0.25)]}
    assert select_point(points, "reward", True) == "0.5"
    assert select_point(points, "reward", False) == "1"


def test_equal_points_go_to_the_first():
    points = {"b": [_measured(0.5)], "a": [_measured(0.5)], "c": [_measured(0.25, 0.75)]}
    assert select_point(points, "reward", True) == "b"
    assert select_point(points, "reward", False) == "b"


def test_every_seed_and_variant_counts_once_however_many_values_it_has():
    steady = [_measured(0.5), _measured(0.5)]
    lopsided = [_measured(*[0.9] * 10), _measured(0.0)]
    assert select_point({"lopsided": lopsided, "steady": steady}, "reward", True) == "steady"
    cold, hot = _measured(0.9, metric="win_rate", variant="0.25"), _measured(0.0, metric="win_rate", variant="1")
    mild = _measured(0.5, metric="win_rate", variant="0.25") | _measured(0.5, metric="win_rate", variant="1")
    assert select_point({"uneven": [cold | hot], "mild": [mild]}, "win_rate", True) == "mild"


def test_a_seed_without_the_metric_leaves_the_mean_to_the_others():
    points = {"a": [_measured(0.5), {}], "b": [_measured(0.4), _measured(0.4)]}
    assert select_point(points, "reward", True) == "a"


def test_a_single_point_needs_no_measurement():
    assert select_point({"only": [{}]}, "reward", None) == "only"


@pytest.mark.parametrize("bad", [{}, {"": {}}, _measured(), _measured(float("nan")), _measured(1.0, metric="vader")])
def test_a_point_without_the_metric_is_named(bad):
    with pytest.raises(UserError, match="'reward' was not measured on validation data at beta=0.5"):
        select_point({"beta=0.1": [_measured(0.1)], "beta=0.5": [bad]}, "reward", True)


def test_a_metric_without_a_better_end_chooses_nothing():
    points = {"a": [_measured(10, metric="length")], "b": [_measured(20, metric="length")]}
    with pytest.raises(UserError, match="neither end of 'length' is better"):
        select_point(points, "length", None)
