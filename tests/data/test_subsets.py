"""A seeded choice of pairs, by prompt."""

from hypothesis import given
from hypothesis import strategies as st

from sparsepo.data.pairing import subsample_prompts
from sparsepo.data.records import Preference


def pairs(prompts):
    return [Preference(prompt, f"good {at}", f"bad {at}") for at, prompt in enumerate(prompts)]


MANY = pairs([f"p{number % 40}" for number in range(100)])


@given(st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_all_pairs_of_a_share_of_the_prompts_are_chosen_in_their_order(share, seed):
    found = subsample_prompts(MANY, share, seed)
    prompts = {pair.prompt for pair in found}
    assert abs(len(prompts) - 40 * share) < 1 or len(prompts) == 1
    assert found == [pair for pair in MANY if pair.prompt in prompts]


def test_29_percent_of_a_hundred_prompts_are_29():
    assert len(subsample_prompts(pairs([f"p{number}" for number in range(100)]), 0.29, 0)) == 29


def test_a_share_of_one_is_all_pairs_and_the_least_share_one_prompt():
    assert subsample_prompts(MANY, 1.0, 5) == MANY
    assert len({pair.prompt for pair in subsample_prompts(MANY, 1e-9, 5)}) == 1


def test_the_seed_chooses_and_a_smaller_share_is_part_of_a_larger_one():
    chosen = [{pair.prompt for pair in subsample_prompts(MANY, 0.5, seed)} for seed in range(6)]
    assert len(set(map(frozenset, chosen))) == 6
    assert subsample_prompts(MANY, 0.5, 3) == subsample_prompts(MANY, 0.5, 3)
    assert {pair.prompt for pair in subsample_prompts(MANY, 0.2, 1)} < chosen[1]
