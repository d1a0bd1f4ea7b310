"""Token ids of prompts and responses, and dropping what cannot be trained on."""

from functools import cache

import pytest

from sparsepo.data.encoding import Encoder, TokenPair, encode_pairs
from sparsepo.data.records import Preference
from sparsepo.models.loading import train_tokenizer

WORDS = ["a", "b", "c", "d", "e", "f"]


@cache
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], "word", 50)


def ids(text):
    return [tokenizer().convert_tokens_to_ids(word) for word in text.split()]


class Fake:
    """A tokenizer that puts 1 in front and 2 behind, as some do; each letter is its place in the alphabet plus 10."""

    eos_token_id = 2

    def __init__(self, front=(1,), behind=(2,)):
        self.front, self.behind = list(front), list(behind)

    def __call__(self, text, add_special_tokens=True):
        letters = [ord(letter) - ord("a") + 10 for letter in text]
        return {"input_ids": self.front + letters + self.behind if add_special_tokens else letters}


def test_a_prompt_keeps_what_stands_in_front_and_loses_the_end_behind():
    assert Encoder(Fake()).encode_prompt("ab") == [1, 10, 11]
    assert Encoder(Fake(behind=())).encode_prompt("ab") == [1, 10, 11]
    assert Encoder(Fake(front=(), behind=(2, 2))).encode_prompt("") == []


def test_a_response_has_the_end_token_only_if_it_has_ended_and_nothing_in_front():
    assert Encoder(Fake()).encode_response("ab", "cd", ended=True) == [12, 13, 2]
    assert Encoder(Fake()).encode_response("ab", "cd", ended=False) == [12, 13]


def record(prompt="a b", chosen="c d", rejected="e", **rest):
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, **rest)


def test_a_pair_is_prompt_and_two_responses_tokenised_apart():
    end = tokenizer().eos_token_id
    encoded = encode_pairs(Encoder(tokenizer()), [record(), record(chosen_ended=False, rejected_ended=False)], 8, 8, 99)
    assert encoded.pairs == [
        TokenPair(ids("a b"), ids("c d") + [end], ids("e") + [end]),
        TokenPair(ids("a b"), ids("c d"), ids("e")),
    ]
    assert (encoded.indices, encoded.dropped) == ([0, 1], {})


def test_a_response_is_cut_at_its_limit_and_then_has_no_end():
    encoded = encode_pairs(Encoder(tokenizer()), [record(chosen="c d e f a b", rejected="c d")], 8, 3, 99)
    assert encoded.pairs[0].chosen == ids("c d e")
    assert encoded.pairs[0].rejected == ids("c d") + [tokenizer().eos_token_id]


def test_a_response_ends_where_the_context_of_the_model_does():
    encoded = encode_pairs(Encoder(tokenizer()), [record(chosen="c d e f", rejected="c")], 8, 8, context=5)
    assert encoded.pairs == [TokenPair(ids("a b"), ids("c d e"), ids("c") + [tokenizer().eos_token_id])]


def test_a_prompt_that_leaves_no_room_in_the_context_is_dropped():
    encoded = encode_pairs(
        Encoder(tokenizer()), [record(prompt="a b c d"), record(prompt="a b c d e")], 8, 8, context=4
    )
    assert (encoded.pairs, encoded.dropped) == ([], {"prompt is longer than 3 tokens": 2})


DROPPED = [
    (record(prompt=""), "prompt is empty"),
    (record(prompt="a b c d e"), "prompt is longer than 4 tokens"),
    (record(chosen=" \n"), "chosen is empty"),
    (record(rejected=""), "rejected is empty"),
    (record(chosen="c d", rejected="c d"), "responses are equal after tokenisation and truncation"),
    (record(chosen="c  d", rejected="c d "), "responses are equal after tokenisation and truncation"),
    (record(chosen="c d e f", rejected="c d e a"), "responses are equal after tokenisation and truncation"),
]


@pytest.mark.parametrize("bad, reason", DROPPED)
def test_a_pair_that_cannot_train_is_dropped_for_a_reason(bad, reason):
    encoded = encode_pairs(Encoder(tokenizer()), [bad], 4, 3, 99)
    assert (encoded.pairs, encoded.indices, encoded.dropped) == ([], [], {reason: 1})


def test_reasons_are_counted_and_the_places_of_the_rest_are_kept():
    records = [record(), record(prompt=""), record(prompt="c"), record(rejected=""), record(prompt="")]
    encoded = encode_pairs(Encoder(tokenizer()), records, 4, 3, 99)
    assert encoded.indices == [0, 2]
    assert [pair.prompt for pair in encoded.pairs] == [ids("a b"), ids("c")]
    assert encoded.dropped == {"prompt is empty": 2, "rejected is empty": 1}


def test_a_prompt_and_responses_of_exactly_the_limits_are_kept_whole():
    encoded = encode_pairs(Encoder(tokenizer()), [record(prompt="a b c d", chosen="a b", rejected="b a")], 4, 3, 7)
    assert len(encoded.pairs[0].prompt) == 4  # and 4 + 3 fill the context
    assert encoded.pairs[0].chosen[-1] == encoded.pairs[0].rejected[-1] == tokenizer().eos_token_id
