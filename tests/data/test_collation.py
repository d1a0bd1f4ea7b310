"""Tokenising prompt and response apart, dropping what cannot train, and batches worked out by hand."""

from functools import cache

import pytest
import torch

from sparsepo.data.collation import (
    LAYOUTS,
    TokenPair,
    collate,
    encode_pairs,
    encode_prompt,
    encode_response,
    rows_of,
    split,
)
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


# --- encoding


def test_a_prompt_keeps_what_stands_in_front_and_loses_the_end_behind():
    assert encode_prompt(Fake(), "ab") == [1, 10, 11]
    assert encode_prompt(Fake(behind=()), "ab") == [1, 10, 11]
    assert encode_prompt(Fake(front=(), behind=(2, 2)), "") == []


def test_a_response_has_the_end_token_only_if_it_has_ended_and_nothing_in_front():
    assert encode_response(Fake(), "cd", ended=True) == [12, 13, 2]
    assert encode_response(Fake(), "cd", ended=False) == [12, 13]


def record(prompt="a b", chosen="c d", rejected="e", **rest):
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, **rest)


def test_a_pair_is_prompt_and_two_responses_tokenised_apart():
    end = tokenizer().eos_token_id
    made = encode_pairs(tokenizer(), [record(), record(chosen_ended=False, rejected_ended=False)], 8, 8, 99)
    assert made.pairs == [
        TokenPair(ids("a b"), ids("c d") + [end], ids("e") + [end]),
        TokenPair(ids("a b"), ids("c d"), ids("e")),
    ]
    assert (made.kept, made.dropped) == ([0, 1], {})


def test_a_response_is_cut_at_its_limit_and_then_has_no_end():
    made = encode_pairs(tokenizer(), [record(chosen="c d e f a b", rejected="c d")], 8, 3, 99)
    assert made.pairs[0].chosen == ids("c d e")
    assert made.pairs[0].rejected == ids("c d") + [tokenizer().eos_token_id]


def test_a_response_ends_where_the_context_of_the_model_does():
    made = encode_pairs(tokenizer(), [record(chosen="c d e f", rejected="c")], 8, 8, context=5)
    assert made.pairs == [TokenPair(ids("a b"), ids("c d e"), ids("c") + [tokenizer().eos_token_id])]


def test_a_prompt_that_leaves_no_room_in_the_context_is_dropped():
    made = encode_pairs(tokenizer(), [record(prompt="a b c d"), record(prompt="a b c d e")], 8, 8, context=4)
    assert (made.pairs, made.dropped) == ([], {"prompt is longer than 3 tokens": 2})


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
    made = encode_pairs(tokenizer(), [bad], 4, 3, 99)
    assert (made.pairs, made.kept, made.dropped) == ([], [], {reason: 1})


def test_reasons_are_counted_and_the_places_of_the_rest_are_kept():
    records = [record(), record(prompt=""), record(prompt="c"), record(rejected=""), record(prompt="")]
    made = encode_pairs(tokenizer(), records, 4, 3, 99)
    assert made.kept == [0, 2]
    assert [pair.prompt for pair in made.pairs] == [ids("a b"), ids("c")]
    assert made.dropped == {"prompt is empty": 2, "rejected is empty": 1}


def test_a_prompt_and_responses_of_exactly_the_limits_are_kept_whole():
    made = encode_pairs(tokenizer(), [record(prompt="a b c d", chosen="a b", rejected="b a")], 4, 3, 7)
    assert len(made.pairs[0].prompt) == 4  # and 4 + 3 fill the context
    assert made.pairs[0].chosen[-1] == made.pairs[0].rejected[-1] == tokenizer().eos_token_id


# --- batches


def test_a_batch_is_the_one_worked_out_by_hand():
    """Two pairs; flattened, the four sequences of five positions start at 0, 5, 10 and 15."""
    batch = collate([TokenPair([7, 8], [1, 2], [3]), TokenPair([9], [4], [5, 6, 0, 5])], pad_id=99)
    assert batch["input_ids"].tolist() == [
        [7, 8, 1, 2, 99],
        [9, 4, 99, 99, 99],
        [7, 8, 3, 99, 99],
        [9, 5, 6, 0, 5],
    ]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["target"].tolist() == [2, 3, 12, 6, 16, 17, 18, 19]
    assert batch["index"].tolist() == [1, 2, 11, 5, 15, 16, 17, 18]
    assert batch["slot"].tolist() == [0, 1, 8, 4, 12, 13, 14, 15]
    assert (batch["ends"], batch["tokens"]) == ((3, 8), 14)
    assert batch["valid"].tolist() == [
        [True, True, False, False],
        [True] + [False] * 3,
        [True] + [False] * 3,
        [True] * 4,
    ]
    assert rows_of(batch).labels(batch["input_ids"]).tolist() == [1, 2, 3, 4, 5, 6, 0, 5]


TWO = [TokenPair([7, 8], [1, 2], [3]), TokenPair([9], [4], [5, 6])]
LAID_OUT = {
    "packed": {
        "input_ids": [[7, 8, 1, 2, 7, 8, 3, 9, 4, 9, 5, 6]],
        "position_ids": [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1, 2]],
        "segments": ((0, 4, 0, 0), (4, 7, 4, 4), (7, 9, 7, 7), (9, 12, 9, 9)),
        "target": [2, 3, 6, 8, 10, 11],
        "index": [1, 2, 5, 7, 9, 10],
    },
    "shared": {
        "input_ids": [[7, 8, 1, 2, 3, 9, 4, 5, 6]],
        "position_ids": [[0, 1, 2, 3, 2, 0, 1, 1, 2]],
        "segments": ((0, 4, 0, 0), (4, 5, 0, 2), (5, 7, 5, 5), (7, 9, 5, 6)),
        "target": [2, 3, 4, 6, 7, 8],
        "index": [1, 2, 1, 5, 5, 7],
    },
    "pairs": {
        "input_ids": [[7, 8, 1, 2, 3], [9, 4, 5, 6, 99]],
        "position_ids": [[0, 1, 2, 3, 2], [0, 1, 1, 2, 0]],
        "parts": [[0, 0, 1, 1, 2], [0, 1, 2, 2, 3]],
        "target": [2, 3, 4, 6, 7, 8],
        "index": [1, 2, 1, 5, 5, 7],
    },
}


@pytest.mark.parametrize("layout", LAID_OUT)
def test_a_layout_is_the_one_worked_out_by_hand(layout):
    """The first token of a rejected response is predicted by the last of its prompt, wherever that stands."""
    batch = collate(TWO, 99, layout)
    for name, expected in LAID_OUT[layout].items():
        assert (batch[name].tolist() if isinstance(batch[name], torch.Tensor) else batch[name]) == expected
    assert batch["slot"].tolist() == [0, 1, 4, 2, 6, 7]
    assert batch["valid"].tolist() == [[True, True], [True, False], [True, False], [True, True]]
    assert (batch["ends"], batch["tokens"]) == ((3, 6), 12)


@pytest.mark.parametrize("layout, cost", [("packed", 12), ("shared", 9), ("pairs", 10), ("padded", 16)])
def test_a_layout_costs_the_positions_that_a_model_computes(layout, cost):
    assert LAYOUTS[layout].cost(TWO) == cost == collate(TWO, 0, layout)["input_ids"].numel()


def sizes(lengths):
    return [TokenPair([1], [1] * (length - 2), [2]) for length in lengths]


def test_a_step_is_cut_into_micro_batches_of_pairs_of_like_length():
    pairs = sizes([10, 40, 12, 38, 11])
    assert split(range(5), pairs, "shared", 2, None) == [[1, 3], [2, 4], [0]]
    assert split(range(5), pairs, "shared", None, None) == [[1, 3, 2, 4, 0]]


def test_a_token_budget_is_kept_except_by_a_pair_that_exceeds_it_alone():
    pairs = sizes([10, 40, 12, 38, 11])
    assert split(range(5), pairs, "shared", None, 39) == [[1], [3], [2, 4, 0]]
    assert split(range(5), pairs, "pairs", None, 33) == [[1], [3], [2, 4], [0]]  # three rows of 12 would be 36
    assert split([4, 0], pairs, "shared", None, 21) == [[4, 0]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_of_the_rows_is_the_batch_of_these_pairs(layout):
    """Rows of pair 1 alone, as rows of a batch of one; the width of the grid stays."""
    batch = collate(TWO, 0, layout)
    rows = rows_of(batch)
    part = rows.part(slice(3, 6), torch.tensor([1, 3]))
    assert part.valid.tolist() == [[True, False], [True, True]]
    values = torch.arange(6.0)
    assert part.grid(values[3:]).tolist() == [[3.0, 0.0], [4.0, 5.0]]
    assert rows.tokens(rows.grid(values)).tolist() == values.tolist()


@pytest.mark.parametrize("pad_id", [0, 3, 7])
def test_padding_is_told_from_position_and_never_from_the_ids(pad_id):
    """The pairs use each of these ids, at the end of a response as well."""
    pairs = [TokenPair([7, 3], [0, 7, 3], [7]), TokenPair([0], [0], [3, 3])]
    batch, other = collate(pairs, pad_id), collate(pairs, 99)
    for name in set(batch) - {"input_ids", "ends", "tokens"}:
        assert torch.equal(batch[name], other[name])
    assert batch["attention_mask"].sum(1).tolist() == [5, 2, 3, 3]


def test_a_batch_of_one_pair_works():
    batch = collate([TokenPair([1], [2], [3])], 0)
    assert batch["input_ids"].tolist() == [[1, 2], [1, 3]]
    assert batch["index"].tolist() == [0, 2]


@pytest.mark.parametrize("pair", [TokenPair([], [1], [2]), TokenPair([1], [], [2]), TokenPair([1], [2], [])])
def test_a_pair_with_an_empty_part_cannot_be_put_into_a_batch(pair):
    with pytest.raises(ValueError, match="at least one response token"):
        collate([TokenPair([1], [2], [3]), pair], 0)
