"""The table of methods agrees with the code it names, and refuses what no method can take."""

import inspect

import pytest

from sparsepo.methods.method import MASKS, MISMATCHED_KL, RUNNING_REWARD
from sparsepo.methods.registry import (
    DEFAULT_INSPECTION_METHOD,
    METHODS,
    check_pair_method,
    check_parameters,
    inspection_method,
)
from sparsepo.objective import losses
from sparsepo.objective.mask_builder import Masks, build_masks
from sparsepo.objective.masks import MaskHead
from sparsepo.runtime.errors import UserError, did_you_mean

WITH_LOSS = [name for name, row in METHODS.items() if row.trainer != "on_policy"]


def subclasses(base):
    return {base, *(deeper for child in base.__subclasses__() for deeper in subclasses(child))}


def keyword_only(function):
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("method", WITH_LOSS)
def test_a_row_names_a_loss_and_exactly_its_keywords(method):
    row = METHODS[method]
    of_the_step = {MISMATCHED_KL: {"kl"}, RUNNING_REWARD: {"shift"}}.get(row.statistic, set())
    assert keyword_only(getattr(losses, row.loss)) == {*row.hyper, *of_the_step}


def test_every_loss_is_one_of_a_method_and_every_mask_head_one_of_a_row():
    functions = inspect.getmembers(losses, lambda value: getattr(value, "__module__", None) == losses.__name__)
    assert {name for name, _ in functions if name[0] != "_"} == {METHODS[name].loss for name in WITH_LOSS}
    heads = {f"{head.__module__}.{head.__name__}" for head in subclasses(MaskHead) if not head.__subclasses__()}
    assert {head for head in heads if head.startswith("sparsepo.")} <= {row.head for row in MASKS.values()}


@pytest.mark.parametrize("method", METHODS)
def test_every_mask_of_a_row_is_built_from_its_defaults(method):
    row = METHODS[method]
    assert bool(row.masks) == bool(row.share) == bool(row.mask_choices)
    for mask in row.mask_choices:
        parameters = row.split_parameters({"mask": mask})[1]
        assert isinstance(build_masks(2, 4, **parameters), Masks) if parameters else mask == "none"


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_a_method_is_read_with_one_of_its_masks(method):
    row = METHODS[method]
    assert set(row.parameters) == {name for mask in row.mask_choices or ["none"] for name in row.used_parameters(mask)}


def test_every_loss_that_is_a_sum_over_tokens_may_have_a_mask():
    assert all(METHODS[name].mask_choices for name in WITH_LOSS)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_tells_a_reader_its_equation_and_source(method):
    row = METHODS[method]
    assert row.label and row.equation and row.source
    needs_kl = row.loss in {"tdpo1", "tdpo2", "sparsepo", "tis_dpo"}
    assert bool(row.kl) == needs_kl
    assert row.needs_reference == (row.loss not in {"simpo", "orpo", "sepo", "selective_nll"})


def test_a_method_on_samples_of_its_policy_has_no_loss_of_pairs_and_nothing_that_can_be_cached():
    others = [row for name, row in METHODS.items() if name not in WITH_LOSS]
    assert all(row.loss is None and row.required_reference_outputs({}, log_kl=True) is None for row in others)


def test_a_method_without_pairs_is_refused_where_pairs_are_trained_on():
    with pytest.raises(UserError, match="'fdpg' trains on samples of its policy, not on pairs: use OnPolicyTrainer"):
        check_pair_method("fdpg", {"beta": 0.1})
    assert check_pair_method("dpo", {}) is METHODS["dpo"]


def test_who_looks_into_pairs_has_a_loss_of_pairs():
    assert {name: inspection_method(name) for name in METHODS if inspection_method(name) != name} == {
        "inpo": DEFAULT_INSPECTION_METHOD,
        "fdpg": DEFAULT_INSPECTION_METHOD,
        "fdpg_feature": DEFAULT_INSPECTION_METHOD,
    }


def test_labels_are_distinct():
    labels = [row.label for row in METHODS.values()]
    assert len(set(labels)) == len(labels)


def test_every_mask_is_one_of_a_method():
    assert set(MASKS) == {mask for row in METHODS.values() for mask in row.mask_choices} - {"none"}


def test_what_is_given_goes_to_the_loss_or_to_the_masks_and_the_rest_is_default():
    hyper, masks = METHODS["sparsepo_common"].split_parameters({"beta": 0.5, "l1_u": 0.01})
    assert hyper == {"beta": 0.5, "form": "paper"}
    assert masks == {
        "mask": "layers",
        "l1_u": 0.01,
        "l1_d": 0.0,
        "init": "ones",
        "normalise": "none",
        "share": "common",
    }


def test_what_a_mask_does_not_read_is_not_among_its_keywords():
    assert METHODS["dpo"].split_parameters({"beta": 0.5}) == ({"beta": 0.5}, {})
    wanted = {"mask": "selected", "share": "reward_only", "k_chosen": 0.2, "k_rejected": 0.3}
    assert METHODS["dpo"].split_parameters({"mask": "selected", "k_chosen": 0.2, "oracle": "main"})[1] == wanted


def test_the_oracle_is_that_of_masks_that_read_numbers_of_the_pairs():
    assert METHODS["sepo"].oracle({"oracle": "main"}) == "main"
    assert METHODS["dpo"].oracle({"mask": "given"}) == "data"
    assert METHODS["dpo"].oracle({"mask": "layers"}) is METHODS["dpo"].oracle({}) is None


# --- refusals


def test_a_parameter_that_the_mask_does_not_read_is_refused():
    with pytest.raises(UserError, match="'l1_u' of 'dpo' is not read where mask is 'none', but with layers, .* or bin"):
        check_parameters("dpo", {"l1_u": 0.1})
    with pytest.raises(UserError, match="'oracle' of 'sparsepo_common' is not read where mask is 'layers', but"):
        check_parameters("sparsepo_common", {"oracle": "main"})
    check_parameters("dpo", {"l1_u": 0.1, "mask": "last"})


def test_a_mask_that_would_make_another_method_is_refused_with_those_it_may_have():
    with pytest.raises(UserError, match="'mask' of 'mapo' must be 'activations' or 'given', not .layers."):
        check_parameters("mapo", {"mask": "layers"})
    with pytest.raises(UserError, match="'mask' of 'sparsepo_common' must be 'layers', .*, not .activations."):
        check_parameters("sparsepo_common", {"mask": "activations"})


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="method 'tdpo' is unknown; allowed: dpo, .*did you mean 'tdpo"):
        check_parameters("tdpo", {})


def test_a_parameter_that_a_method_lacks_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="'dpo' has no parameter 'betta'; allowed: beta, mask, .*; did you mean 'beta'"):
        check_parameters("dpo", {"betta": 0.1})
    with pytest.raises(UserError, match="'dpo' has no parameter 'alpha'"):
        check_parameters("dpo", {"alpha": 0.1})


def test_what_makes_a_method_what_it_is_cannot_be_set():
    with pytest.raises(UserError, match="'sparsepo_common' has no parameter 'share'"):
        check_parameters("sparsepo_common", {"share": "independent"})


def test_a_name_like_none_of_the_allowed_gets_no_suggestion():
    assert did_you_mean("zzz", ["beta", "form"]) == "allowed: beta, form"


@pytest.mark.parametrize("name", METHODS)
def test_what_a_job_is_given_is_accepted_where_it_runs(name):
    """The resolved parameters of a method's defaults are parameters that a trainer takes."""
    check_parameters(name, METHODS[name].resolve({}))
