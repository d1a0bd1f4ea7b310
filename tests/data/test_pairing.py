"""From scored responses to pairs: worked out by hand, and every dropped row counted with its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsepo.data.pairing import PairBuilder, add_space, best_and_worst, swap_responses
from sparsepo.data.records import Preference, Scored


def rows(*triples):
    """(prompt, text, reward)... -> rows with the places 1, 2, ..."""
    return [(f"row {at}", Scored(*triple)) for at, triple in enumerate(triples, start=1)]


def made(*triples):
    return best_and_worst(rows(*triples))


def dropped(pairing):
    return [(row["reason"], row["count"], row["first"]) for row in pairing.summary["dropped"]]


# --- best against worst


def test_the_best_stands_against_the_worst_with_their_scores():
    pairing = made(("p", " mid", 0.5), ("p", " low", -1.0), ("p", " high", 2.0))
    assert pairing.pairs == [Preference("p", " high", " low", 2.0, -1.0, True, True)]
    assert pairing.summary == {"pairs": 1, "dropped": []}


def test_responses_of_a_prompt_need_not_stand_together_and_prompts_keep_their_order():
    pairing = made(("b", " 1", 1.0), ("a", " 2", 2.0), ("b", " 3", 3.0), ("a", " 4", 4.0))
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairing.pairs] == [
        ("b", " 3", " 1"),
        ("a", " 4", " 2"),
    ]


def test_the_first_wins_among_equals():
    (pair,) = made(("p", " x", 1.0), ("p", " y", 1.0), ("p", " u", 0.0), ("p", " v", 0.0)).pairs
    assert (pair.chosen, pair.rejected) == (" x", " u")


def test_whether_a_response_was_cut_goes_with_it():
    cut = [("1", Scored("p", " x", 1.0, ended=False)), ("2", Scored("p", " y", 0.0, ended=True))]
    (pair,) = best_and_worst(cut).pairs
    assert (pair.chosen_ended, pair.rejected_ended) == (False, True)


def test_ties_and_lonely_responses_give_no_pair_and_are_counted():
    pairing = made(
        ("tie", " a", 1.0),
        ("tie", " b", 1.0),
        ("lonely", " c", 1.0),
        ("good", " d", 1.0),
        ("good", " e", 0.0),
        ("tie 2", " f", 0.0),
        ("tie 2", " g", 0.0),
    )
    assert len(pairing.pairs) == 1
    assert dropped(pairing) == [
        ("all responses of the prompt have the same reward", 2, "row 1"),
        ("the only response of its prompt", 1, "row 3"),
    ]


@pytest.mark.parametrize("empty", ["", " ", "\n\t", "\u3000"])
def test_an_empty_response_is_dropped_before_anything_is_compared(empty):
    pairing = made(("p", " good", 1.0), ("p", empty, 9.0), ("p", " bad", 0.0), ("q", empty, 1.0), ("q", " x", 0.0))
    assert [(pair.chosen, pair.rejected) for pair in pairing.pairs] == [(" good", " bad")]
    assert dropped(pairing) == [("field 'text' is empty", 2, "row 2"), ("the only response of its prompt", 1, "row 5")]


def test_equal_texts_with_other_rewards_are_no_pair():
    pairing = made(("p", " same", 1.0), ("p", " same", 0.0))
    assert pairing.pairs == [] and dropped(pairing) == [("chosen and rejected are equal", 1, "row 1")]


def test_an_empty_prompt_gives_no_pair():
    assert dropped(made(("", " a", 1.0), ("", " b", 0.0))) == [("field 'prompt' is empty", 1, "row 1")]


TRIPLES = st.tuples(st.sampled_from("pqr"), st.sampled_from(["", " a", " b", " c"]), st.integers(0, 3).map(float))


@given(st.lists(TRIPLES, max_size=12))
def test_no_row_is_lost_and_no_pair_could_be_wider(triples):
    pairing = made(*triples)
    full = [triple for triple in triples if triple[1].strip()]
    lost = sum(row["count"] for row in pairing.summary["dropped"] if row["reason"] != "field 'text' is empty")
    assert len(pairing.pairs) + lost == len({prompt for prompt, _, _ in full})
    assert pairing.dropped["field 'text' is empty"] == len(triples) - len(full)
    for pair in pairing.pairs:
        rewards = [reward for prompt, _, reward in full if prompt == pair.prompt]
        assert (pair.chosen_score, pair.rejected_score) == (max(rewards), min(rewards))
        assert (pair.prompt, pair.chosen, pair.chosen_score) in triples
        assert (pair.prompt, pair.rejected, pair.rejected_score) in triples


# --- spaces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("word", " word"),
        ("2 words", " 2 words"),
        ('"quoted"', ' "quoted"'),
        ("'tis", " 'tis"),
        ("(aside)", " (aside)"),
        ("über", " über"),
        (" already", " already"),
        (", so", ", so"),
        (". End", ". End"),
        ("\nnext", "\nnext"),
        ("<br />", "<br />"),
        ("", ""),
        ("好", "好"),
        ("はい", "はい"),
        ("ไทย", "ไทย"),
        ("привет", " привет"),
        ("مرحبا", " مرحبا"),
    ],
)
def test_a_response_that_starts_with_a_word_follows_its_prompt_after_a_space(text, expected):
    assert add_space("Is it?", text) == expected


@pytest.mark.parametrize("prompt", ["Answer: ", "Answer:\n", "Answer:\u3000", ""])
def test_no_space_is_added_after_white_space_or_at_the_start(prompt):
    assert add_space(prompt, "word") == "word"


def test_an_empty_pairing_says_so():
    assert str(PairBuilder()) == "0 pairs" and PairBuilder().summary == {"pairs": 0, "dropped": []}


# --- pairs the other way round


def test_all_that_belongs_to_a_response_goes_with_it():
    pair = Preference("p", "good", "bad", 2.0, 1.0, True, False, 3, [0.5], [0.1, 0.2], None, [7], [8, 9])
    turned = Preference("p", "bad", "good", 1.0, 2.0, False, True, 3, [0.1, 0.2], [0.5], None, [8, 9], [7])
    assert swap_responses(pair) == turned and swap_responses(turned) == pair


def test_a_response_to_another_prompt_takes_it_along():
    pair = Preference("p", "good", "bad", rejected_prompt="q", messages=[{"role": "user", "content": "p"}])
    assert swap_responses(pair) == Preference("q", "bad", "good", rejected_prompt="p")
