import pytest

from sparsepo.report.run_names import params_text, parse_run


@pytest.mark.parametrize(
    ("run", "parts"),
    [
        ("sft", ("sft", {}, None)),
        ("dpo/beta~0.1/seed~0", ("dpo", {"beta": "0.1"}, 0)),
        ("tdpo2/alpha~0.5-beta~0.1/seed~12", ("tdpo2", {"alpha": "0.5", "beta": "0.1"}, 12)),
        ("mapo/beta~1e-05-mask_l1~-0.5/seed~3", ("mapo", {"beta": "1e-05", "mask_l1": "-0.5"}, 3)),
        ("simpo//seed~0", ("simpo", {}, 0)),
    ],
)
def test_a_run_is_taken_apart_into_method_params_and_seed(run, parts):
    assert parse_run(run) == parts


def test_params_are_written_in_the_order_of_their_names():
    assert params_text({"beta": "0.1", "alpha": "0.5"}) == "alpha=0.5, beta=0.1"
    assert params_text({}) == "-"
