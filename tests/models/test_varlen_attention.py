"""Segments as a kernel for sequences of any lengths takes them; the kernel itself is tried in test_gpu.py."""

import random

import pytest
import torch

from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import TokenPair
from sparsepo.models.varlen_attention import RepeatShared, plan_segments

CPU = torch.device("cpu")


def random_segments(count):
    draw = random.Random(count)
    words = lambda: [draw.randrange(9) for _ in range(draw.randint(1, 6))]  # noqa: E731
    pairs = [TokenPair(words(), words(), words()) for _ in range(count)]
    return collate_pairs(pairs, 0, "shared").inputs.segments


def test_a_plan_of_two_pairs_is_the_one_worked_out_by_hand():
    pairs = [TokenPair([1, 2], [3], [4, 5]), TokenPair([6], [7, 8], [9])]
    plan = plan_segments(collate_pairs(pairs, 0, "shared").inputs.segments, CPU)
    assert plan.q_ends.tolist() == [0, 3, 5, 8, 9] and plan.k_ends.tolist() == [0, 3, 7, 10, 12]
    assert plan.key_rows.tolist() == [0, 1, 2, 0, 1, 3, 4, 5, 6, 7, 5, 8]
    assert (plan.max_q, plan.max_k) == (3, 4)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shared_rows_and_the_gradients_of_their_copies_are_those_of_plain_indexing(count):
    plan = plan_segments(random_segments(count), CPU)
    torch.manual_seed(0)
    states = torch.randn(int(plan.q_ends[-1]), 2, 3, dtype=torch.float64)
    factor = torch.randn(int(plan.k_ends[-1]), 2, 3, dtype=torch.float64)
    own, plain = states.clone().requires_grad_(), states.clone().requires_grad_()
    found, wanted = RepeatShared.apply(own, plan), plain[plan.key_rows]
    assert torch.equal(found, wanted)
    (found * factor).sum().backward()
    (wanted * factor).sum().backward()
    torch.testing.assert_close(own.grad, plain.grad, rtol=0, atol=0)
