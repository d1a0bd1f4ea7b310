"""What a parameter of a method may be: each row of the table, and each value at its limits."""

import re
from typing import get_args

import pytest
from pydantic import TypeAdapter

from sparsepo.methods.method import MASKS
from sparsepo.methods.parameters import PARAMETERS
from sparsepo.methods.registry import METHODS, check_parameters, parameter_type
from sparsepo.objective.f_divergence import DIVERGENCES
from sparsepo.runtime.errors import UserError


def test_every_parameter_belongs_to_some_method():
    assert set(PARAMETERS) == {name for row in METHODS.values() for name in row.parameters}


def test_choices_are_those_of_the_code():
    assert set(get_args(PARAMETERS["mask"].type)) == {"none", *MASKS}
    assert get_args(PARAMETERS["divergence"].type) == tuple(DIVERGENCES)


@pytest.mark.parametrize("method", METHODS)
def test_every_default_is_one_that_a_config_may_set(method):
    for name, default in METHODS[method].parameters.items():
        if name not in METHODS[method].training_keys:  # those stand in the training section
            TypeAdapter(parameter_type(method, name)).validate_python(default, strict=True)


BAD = [
    ("dpo", "beta", 0),
    ("dpo", "beta", -0.1),
    ("dpo", "beta", float("nan")),
    ("dpo", "beta", float("inf")),
    ("dpo", "beta", True),
    ("dpo", "beta", "0.1"),
    ("dpo", "beta", None),
    ("dpo", "beta", [0.1]),
    ("cdpo", "label_smoothing", 0.5),
    ("cdpo", "label_smoothing", -0.1),
    ("simpo", "gamma", -1),
    ("ipo", "reduction", "max"),
    ("sparsepo_common", "form", "published"),
    ("sparsepo_common", "form", ["paper"]),
    ("sparsepo_common", "init", "zeros"),
    ("sparsepo_common", "l1_u", -0.001),
    ("mapo", "activation_sites", []),
    ("mapo", "activation_sites", "mlp"),
    ("mapo", "activation_sites", ["mlp", "logits"]),
    ("mapo", "activation_sites", [["mlp"]]),
    ("mapo", "activation_sites", 3),
    ("mapo", "normalisation", "softmax"),
    ("sepo", "k_chosen", 0),
    ("sepo", "k_rejected", 1.1),
    ("sepo", "oracle", "../main"),
    ("sepo", "oracle", 1),
    ("beta_dpo", "filtered", 1),
    ("inpo", "iterations", 1.5),
    ("fdpg", "divergence", "chi2"),
    ("fdpg_feature", "target_mean", float("nan")),
]


@pytest.mark.parametrize("method, name, value", BAD)
def test_a_value_that_makes_no_sense_is_refused_with_what_is_allowed(method, name, value):
    with pytest.raises(UserError) as refusal:
        check_parameters(method, {name: value})
    assert re.match(
        f"parameter '{name}' of '{method}' (must be .*, not |is empty; give at least one)", str(refusal.value)
    )


GOOD = [
    ("dpo", "beta", 1),
    ("dpo", "beta", 1e-6),
    ("cdpo", "label_smoothing", 0),
    ("simpo", "gamma", 0.0),
    ("sparsepo_common", "form", "released"),
    ("sparsepo_common", "mask", "random"),
    ("dpo", "mask", "none"),
    ("ipo", "mask", "given"),
    ("sepo", "k_chosen", 1),
    ("sepo", "oracle", "half_2"),
    ("mapo", "activation_sites", ["residual"]),
    ("mapo", "activation_sites", ("attention", "mlp")),
]


@pytest.mark.parametrize("method, name, value", GOOD)
def test_a_value_at_the_edge_of_what_is_allowed_is_accepted(method, name, value):
    assert check_parameters(method, {name: value}) is METHODS[method]
