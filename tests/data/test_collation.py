"""Batches of pairs and of responses, worked out by hand."""

from dataclasses import replace

import pytest
import torch

from sparsepo.data.collation import LAYOUTS, collate_pairs, collate_responses, split_into_micro_batches
from sparsepo.data.encoding import TokenPair


def test_a_batch_is_the_one_worked_out_by_hand():
    """Two pairs; flattened, the four sequences of five positions start at 0, 5, 10 and 15."""
    batch = collate_pairs([TokenPair([7, 8], [1, 2], [3]), TokenPair([9], [4], [5, 6, 0, 5])], pad_id=99)
    assert batch.inputs.input_ids.tolist() == [
        [7, 8, 1, 2, 99],
        [9, 4, 99, 99, 99],
        [7, 8, 3, 99, 99],
        [9, 5, 6, 0, 5],
    ]
    assert batch.inputs.attention_mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.responses.token.tolist() == [2, 3, 12, 6, 16, 17, 18, 19]
    assert batch.responses.hidden.tolist() == [1, 2, 11, 5, 15, 16, 17, 18]
    assert batch.responses.cell.tolist() == [0, 1, 8, 4, 12, 13, 14, 15]
    assert (batch.pair_ends, batch.num_tokens) == ((3, 8), 14)
    assert batch.responses.valid.tolist() == [
        [True, True, False, False],
        [True] + [False] * 3,
        [True] + [False] * 3,
        [True] * 4,
    ]
    assert batch.labels.tolist() == [1, 2, 3, 4, 5, 6, 0, 5]


TWO = [TokenPair([7, 8], [1, 2], [3]), TokenPair([9], [4], [5, 6])]
LAID_OUT = {
    "shared": {
        "input_ids": [[7, 8, 1, 2, 3, 9, 4, 5, 6]],
        "position_ids": [[0, 1, 2, 3, 2, 0, 1, 1, 2]],
        "segments": ((0, 4, 0, 0), (4, 5, 0, 2), (5, 7, 5, 5), (7, 9, 5, 6)),
    },
    "pairs": {
        "input_ids": [[7, 8, 1, 2, 3], [9, 4, 5, 6, 99]],
        "position_ids": [[0, 1, 2, 3, 2], [0, 1, 1, 2, 0]],
        "parts": [[0, 0, 1, 1, 2], [0, 1, 2, 2, 3]],
    },
}


@pytest.mark.parametrize("layout", LAID_OUT)
def test_a_layout_is_the_one_worked_out_by_hand(layout):
    """The first token of a rejected response is predicted by the last of its prompt, wherever that stands."""
    batch = collate_pairs(TWO, 99, layout)
    for name, expected in LAID_OUT[layout].items():
        value = getattr(batch.inputs, name)
        assert (value.tolist() if isinstance(value, torch.Tensor) else value) == expected
    assert batch.responses.token.tolist() == [2, 3, 4, 6, 7, 8]
    assert batch.responses.hidden.tolist() == [1, 2, 1, 5, 5, 7]
    assert batch.responses.cell.tolist() == [0, 1, 4, 2, 6, 7]
    assert batch.responses.valid.tolist() == [[True, True], [True, False], [True, False], [True, True]]
    assert (batch.pair_ends, batch.num_tokens) == ((3, 6), 12)


@pytest.mark.parametrize("layout, cost", [("shared", 9), ("pairs", 10), ("padded", 16)])
def test_a_layout_costs_the_positions_that_a_model_computes(layout, cost):
    assert LAYOUTS[layout].num_positions(TWO) == cost == collate_pairs(TWO, 0, layout).inputs.input_ids.numel()


def sizes(lengths):
    return [TokenPair([1], [1] * (length - 2), [2]) for length in lengths]


def test_a_step_is_cut_into_micro_batches_of_pairs_of_like_length():
    pairs = sizes([10, 40, 12, 38, 11])
    assert split_into_micro_batches(range(5), pairs, "shared", 2, None) == [[1, 3], [2, 4], [0]]
    assert split_into_micro_batches(range(5), pairs, "shared", None, None) == [[1, 3, 2, 4, 0]]


def test_a_token_budget_is_kept_except_by_a_pair_that_exceeds_it_alone():
    pairs = sizes([10, 40, 12, 38, 11])
    assert split_into_micro_batches(range(5), pairs, "shared", None, 39) == [[1], [3], [2, 4, 0]]
    assert split_into_micro_batches(range(5), pairs, "pairs", None, 33) == [
        [1],
        [3],
        [2, 4],
        [0],
    ]  # three rows of 12 would be 36
    assert split_into_micro_batches([4, 0], pairs, "shared", None, 21) == [[4, 0]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_selected_pairs_are_a_smaller_batch(layout):
    """Pair 1 alone; the width of the grid stays."""
    batch, values = collate_pairs(TWO, 0, layout), torch.arange(6.0)
    part = replace(batch, values=values, scores=torch.arange(4.0)).select(slice(3, 6), range(1, 2))
    assert part.num_pairs == 1
    assert part.responses.valid.tolist() == [[True, False], [True, True]]
    assert part.to_grid(part.values).tolist() == [[3.0, 0.0], [4.0, 5.0]]
    assert part.scores.tolist() == [1.0, 3.0]
    assert batch.responses.from_grid(batch.responses.to_grid(values)).tolist() == values.tolist()


@pytest.mark.parametrize("pad_id", [0, 3, 7])
def test_padding_is_known_from_positions_and_never_from_ids(pad_id):
    """The pairs use each of these ids, at the end of a response as well."""
    pairs = [TokenPair([7, 3], [0, 7, 3], [7]), TokenPair([0], [0], [3, 3])]
    batch, other = collate_pairs(pairs, pad_id), collate_pairs(pairs, 99)
    assert all(torch.equal(mine, vars(other.responses)[name]) for name, mine in vars(batch.responses).items())
    for name in ("attention_mask", "position_ids"):
        assert torch.equal(getattr(batch.inputs, name), getattr(other.inputs, name))
    assert batch.inputs.attention_mask.sum(1).tolist() == [5, 2, 3, 3]


def test_a_batch_of_one_pair_works():
    batch = collate_pairs([TokenPair([1], [2], [3])], 0)
    assert batch.inputs.input_ids.tolist() == [[1, 2], [1, 3]]
    assert batch.responses.hidden.tolist() == [0, 2]


@pytest.mark.parametrize("pair", [TokenPair([], [1], [2]), TokenPair([1], [], [2]), TokenPair([1], [2], [])])
def test_a_pair_with_an_empty_part_cannot_be_put_into_a_batch(pair):
    with pytest.raises(ValueError, match="at least one response token"):
        collate_pairs([TokenPair([1], [2], [3]), pair], 0)


def test_values_and_scores_of_all_pairs_are_in_the_batch():
    """Values in the order chosen, rejected of each pair; scores with the chosen ones first."""
    pairs = [
        TokenPair([7], [1, 2], [3], ([0.5, 1.5], [2.5]), (4.0, 3.0)),
        TokenPair([7], [1], [3], ([3.5], [4.5]), (2.0, 1.0)),
    ]
    batch = collate_pairs(pairs, 0)
    assert batch.values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert batch.scores.tolist() == [4.0, 2.0, 3.0, 1.0]
    assert batch.to_grid(batch.values).tolist() == [[0.5, 1.5], [3.5, 0.0], [2.5, 0.0], [4.5, 0.0]]
    assert collate_pairs([pairs[0], TWO[0]], 0).values is None


def test_a_batch_moves_with_all_its_tensors():
    batch = replace(collate_pairs(TWO, 0), ref_logps=torch.zeros(6), pair_indices=(4, 9))
    moved = batch.to("meta")
    tensors = [moved.ref_logps, *vars(moved.responses).values(), moved.inputs.input_ids, moved.inputs.attention_mask]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.pair_indices, moved.pair_ends, moved.values) == ((4, 9), (3, 6), None)
    assert batch.inputs.input_ids.device.type == "cpu"


def test_responses_to_prompts_are_the_batch_worked_out_by_hand():
    batch = collate_responses([[7, 8], [7, 8]], [[1, 2], [3]], pad_id=9)
    assert batch.inputs.input_ids.tolist() == [[7, 8, 1, 2], [7, 8, 3, 9]]
    assert batch.inputs.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 2]]
    assert batch.responses.hidden.tolist() == [1, 2, 5]
    assert batch.responses.valid.tolist() == [[True, True], [True, False]]
    assert (batch.labels.tolist(), batch.num_tokens) == ([1, 2, 3], 7)


@pytest.mark.parametrize("prompt, response", [([], [1]), ([1], [])])
def test_an_empty_prompt_or_response_cannot_be_put_into_a_batch(prompt, response):
    with pytest.raises(ValueError, match="at least one prompt token and at least one response token"):
        collate_responses([[1], prompt], [[2], response], 0)


def test_a_rejected_response_can_have_a_prompt_of_its_own_in_padded_batches_alone():
    pair = TokenPair([1, 2], [3], [4, 5], rejected_prompt=[6])
    batch = collate_pairs([pair], pad_id=0)
    assert batch.inputs.input_ids.tolist() == [[1, 2, 3], [6, 4, 5]]
    assert batch.labels.tolist() == [3, 4, 5] and batch.num_tokens == 6
    assert batch.responses.hidden.tolist() == [1, 3, 4]  # the rows that predict them
    for layout in ("shared", "pairs"):
        with pytest.raises(ValueError, match="a pair has two: take 'padded'"):
            collate_pairs([pair], 0, layout)
