"""Segments as a kernel for sequences of any lengths takes them; the kernel itself is tried in test_gpu.py."""

import random

import pytest
import torch

from sparsepo.data.collation import TokenPair, collate
from sparsepo.models.varlen_attention import Repeat, plan_of

CPU = torch.device("cpu")


def segments_of(layout, count=4):
    draw = random.Random(count)
    words = lambda: [draw.randrange(9) for _ in range(draw.randint(1, 6))]  # noqa: E731
    batch = collate([TokenPair(words(), words(), words()) for _ in range(count)], 0, layout)
    return tuple((*segment, 0) for segment in batch["segments"])


def test_a_plan_of_two_pairs_is_that_by_hand():
    pairs = [TokenPair([1, 2], [3], [4, 5]), TokenPair([6], [7, 8], [9])]
    plan = plan_of(tuple((*segment, 0) for segment in collate(pairs, 0, "shared")["segments"]), CPU)
    assert plan.q.tolist() == [0, 3, 5, 8, 9] and plan.k.tolist() == [0, 3, 7, 10, 12]
    assert plan.take.tolist() == [0, 1, 2, 0, 1, 3, 4, 5, 6, 7, 5, 8]
    assert (plan.most_q, plan.most_k) == (3, 4)


def test_sequences_that_share_nothing_are_taken_as_they_are():
    plan = plan_of(segments_of("packed"), CPU)
    assert plan.take is None and torch.equal(plan.q, plan.k)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shared_rows_and_the_gradients_of_their_copies_are_those_of_plain_indexing(count):
    plan = plan_of(segments_of("shared", count), CPU)
    torch.manual_seed(0)
    states = torch.randn(int(plan.q[-1]), 2, 3, dtype=torch.float64)
    factor = torch.randn(int(plan.k[-1]), 2, 3, dtype=torch.float64)
    own, plain = states.clone().requires_grad_(), states.clone().requires_grad_()
    found, wanted = Repeat.apply(own, plan), plain[plan.take]
    assert torch.equal(found, wanted)
    (found * factor).sum().backward()
    (wanted * factor).sum().backward()
    torch.testing.assert_close(own.grad, plain.grad, rtol=0, atol=0)
