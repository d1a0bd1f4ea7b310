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
        if default is not None:  # which stands in the training section, or follows from other parameters
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
    ("mapo", "activation_sites", ["mlp", "norm"]),
    ("mapo", "activation_sites", [["mlp"]]),
    ("mapo", "activation_sites", 3),
    ("mapo", "reading", "code"),
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
    ("mapo", "reading", "authors"),
]


@pytest.mark.parametrize("method, name, value", GOOD)
def test_a_value_at_the_edge_of_what_is_allowed_is_accepted(method, name, value):
    assert check_parameters(method, {name: value}) is METHODS[method]


@pytest.mark.parametrize(
    "method, given, reading",
    [
        ("mapo", {}, "paper"),
        ("mapo", {"form": "released"}, "authors"),
        ("mapo", {"form": "released", "reading": "paper"}, "paper"),
        ("mapo", {"reading": "authors"}, "authors"),
        ("dpo", {"mask": "activations"}, "paper"),
        ("simpo", {"mask": "activations"}, "authors"),
        ("ipo", {"mask": "activations", "reduction": "mean"}, "authors"),
    ],
)
def test_the_reading_of_activations_follows_the_form_of_the_loss(method, given, reading):
    """The cache of the reference is named by it."""
    row = METHODS[method]
    assert row.split_parameters(given)[1]["reading"] == row.resolve(given)["reading"] == reading
    assert row.required_reference_outputs(given, True) == ("states", f"weights~{reading}~all")
    sites = given | {"activation_sites": ("residual", "mlp")}
    assert row.required_reference_outputs(sites, True)[1] == f"weights~{reading}~residual+mlp"


@pytest.mark.parametrize("given", [{}, {"form": "paper"}, {"form": "released", "reading": "paper"}])
def test_logits_are_no_site_of_the_papers_reading(given):
    with pytest.raises(UserError, match="'logits' is not in reading 'paper', which has mlp, attention, residual"):
        check_parameters("mapo", {"activation_sites": ["mlp", "logits"], **given})
    check_parameters("mapo", {"activation_sites": ["mlp", "logits"], **given, "reading": "authors"})


@pytest.mark.parametrize("method, given", [("simpo", {}), ("orpo", {}), ("ipo", {"reduction": "mean"})])
def test_a_loss_that_divides_by_the_sum_of_weights_cannot_have_those_that_sum_to_0(method, given):
    with pytest.raises(UserError, match=f"'{method}' divides by the sum of a response's weights.*: write reading: aut"):
        check_parameters(method, {"mask": "activations", "reading": "paper", **given})
    check_parameters(method, {"mask": "activations", **given})
