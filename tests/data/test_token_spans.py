"""Where tokens lie in a response, and which of them planted words make up."""

import pytest

from sparsepo.data.encoding import TokenPair
from sparsepo.data.records import Preference
from sparsepo.data.token_spans import mark_overlaps, planted_weights
from sparsepo.models.loading import train_tokenizer


@pytest.mark.parametrize(
    "tokens, planted, expected",
    [
        ([(0, 3), (4, 8), (9, 10)], [(4, 8)], [0, 1, 0]),
        ([(0, 3), (3, 8), (8, 10)], [(4, 8)], [0, 1, 0]),  # a space before belongs to the token
        ([(0, 4), (4, 8)], [(4, 8)], [0, 1]),  # touching is not overlapping
        ([(0, 2), (2, 4), (4, 6)], [(1, 5)], [1, 1, 1]),  # one word of several tokens
        ([(0, 9), (9, 9)], [(1, 3), (5, 7)], [1, 0]),  # the end token is never planted
        ([(0, 3)], [], [0]),
        ([], [(0, 3)], []),
    ],
)
def test_a_token_is_marked_if_it_shares_a_character_with_a_planted_span(tokens, planted, expected):
    assert mark_overlaps(tokens, planted) == expected


PAIR = Preference("the film", "felt not totally charming .", "felt dull .")


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


def weights_of(kind):
    tokenizer = train_tokenizer(["the film felt not totally charming .", "albums felt dull ."], kind, 300)
    chosen, rejected = ids_of(tokenizer, PAIR.chosen), ids_of(tokenizer, PAIR.rejected)
    (found,) = planted_weights(tokenizer, [PAIR], [TokenPair([5], chosen, rejected)], "words")
    return found


def test_the_tokens_of_polar_words_and_their_negators_weigh_one_and_all_others_nothing():
    assert weights_of("word") == ([0.0, 1.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])


def test_there_is_a_weight_for_each_token_of_a_response_that_was_cut():
    tokenizer = train_tokenizer(["the film felt not totally charming .", "albums felt dull ."], "word", 300)
    cut = TokenPair([5], ids_of(tokenizer, PAIR.chosen)[:2], ids_of(tokenizer, PAIR.rejected)[:1])
    assert planted_weights(tokenizer, [PAIR], [cut], "words") == [([0.0, 1.0], [0.0])]
