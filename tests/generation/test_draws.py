"""Drawing a token by one number: against sums made by hand, and against what top_p is defined to keep."""

import math

import pytest
import torch

from sparsepo.generation.sampler import draw_tokens, response_uniforms
from sparsepo.runtime.errors import UserError


def logits(*probabilities):
    return torch.tensor([probabilities]).log()


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    "uniform, token", [(0.0, 0), (0.124, 0), (0.126, 1), (0.374, 1), (0.376, 3), (0.5, 3), (1 - 2**-53, 3)]
)
def test_a_number_falls_into_the_token_whose_interval_holds_it(uniform, token):
    """Intervals 1/8, 2/8, nothing, 5/8."""
    assert draw_tokens(logits(1 / 8, 2 / 8, 0, 5 / 8), numbers(uniform), 1.0, 1.0).tolist() == [token]


@pytest.mark.parametrize("uniform, token", [(0.0, 3), (0.713, 3), (0.715, 1), (1 - 2**-53, 1)])
def test_top_p_rescales_what_it_keeps_with_the_likeliest_first(uniform, token):
    """Of 1/8, 2/8, 0, 5/8 a share of 0.7 needs 5/8 and 2/8, which are 5/7 and 2/7 of what is kept."""
    assert draw_tokens(logits(1 / 8, 2 / 8, 0, 5 / 8), numbers(uniform), 1.0, 0.7).tolist() == [token]


def test_temperature_acts_before_the_draw():
    """At temperature 1/2, odds of 1 to 3 become 1 to 9."""
    assert draw_tokens(logits(1 / 4, 3 / 4).repeat(2, 1), numbers(0.099, 0.101), 0.5, 1.0).tolist() == [0, 1]


def test_a_token_of_probability_1e_minus_8_at_the_end_of_a_large_vocabulary_can_be_drawn():
    """A float32 sum near 1 moves in steps of 6e-8 and would pass over it."""
    rare = torch.full((1, 50_000), (1 - 1e-8) / 49_999)
    rare[0, -1] = 1e-8
    assert draw_tokens(rare.log(), numbers(1 - 1e-10), 1.0, 1.0).item() == 49_999


def test_the_largest_number_below_one_stays_inside_the_vocabulary():
    torch.manual_seed(0)
    rows = torch.randn(500, 333) * 5
    uniform = torch.full((500,), 1 - 2**-53, dtype=torch.float64)
    for share in (1.0, 0.9, 1e-6):
        assert int(draw_tokens(rows, uniform, 1.0, share).max()) < 333


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_diverged_model_is_told_and_not_sampled(broken):
    with pytest.raises(UserError, match="not finite"):
        draw_tokens(torch.tensor([[0.0, broken]]), numbers(0.5), 1.0, 1.0)


def test_numbers_belong_to_seed_prompt_and_sample():
    series = {
        tuple(response_uniforms(*which, 5).tolist())
        for which in [(0, [1, 2], 0), (1, [1, 2], 0), (0, [1], 0), (0, [1, 2], 1)]
    }
    assert len(series) == 4
    assert torch.equal(response_uniforms(0, [1, 2], 0, 3), response_uniforms(0, (1, 2), 0, 5)[:3])
    assert all(0 <= number < 1 for row in series for number in row)
