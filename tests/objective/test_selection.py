"""Masks that keep the tokens of the highest scores, against a selection made one by one; and what they come to."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsepo.objective.fixed_masks import select_highest
from sparsepo.objective.losses import sepo, simpo
from sparsepo.objective.mask_builder import build_masks
from sparsepo.objective.masks import MaskInputs
from sparsepo.objective.response_terms import Side

ROWS = st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=9), min_size=1, max_size=5)
SHARES = st.integers(1, 100)


def grid(rows, fill=float("nan")):
    """Rows of unlike lengths as a tensor, and where it holds them."""
    longest = max(map(len, rows))
    padded = torch.tensor([[*map(float, row), *[fill] * (longest - len(row))] for row in rows])
    return padded, torch.tensor([[at < len(row) for at in range(longest)] for row in rows])


def kept_one_by_one(row, percent):
    """Places that are kept: time and again the largest score that is left, the first of equal ones."""
    left, kept = list(range(len(row))), set()
    for _ in range(max(1, percent * len(row) // 100)):
        best = left[0]
        for place in left:
            if row[place] > row[best]:
                best = place
        left.remove(best)
        kept.add(best)
    return [float(place in kept) for place in range(len(row))]


@given(ROWS, SHARES)
def test_the_highest_are_those_that_are_taken_one_by_one(rows, percent):
    scores, valid = grid(rows)
    found = select_highest(scores, valid, percent / 100)
    for row, own, ok in zip(rows, found, valid, strict=True):
        assert own[ok].tolist() == kept_one_by_one(row, percent) and not own[~ok].any()


@given(st.data(), SHARES, SHARES)
def test_sepo_keeps_the_highest_of_chosen_and_the_lowest_of_rejected_responses(data, k_chosen, k_rejected):
    rows = data.draw(ROWS)
    chosen, rejected = rows, data.draw(st.permutations(rows))
    scores, valid = grid([*chosen, *rejected])
    shares = {"k_chosen": k_chosen / 100, "k_rejected": k_rejected / 100}
    masks = build_masks(0, 0, mask="selected", share="reward_only", **shares)
    m_u, m_d = masks(MaskInputs(valid, values=scores))
    wanted = [kept_one_by_one(row, k_chosen) for row in chosen]
    wanted += [kept_one_by_one([-score for score in row], k_rejected) for row in rejected]
    assert [own[ok].tolist() for own, ok in zip(m_u, valid, strict=True)] == wanted
    assert (m_d == 1).all()


@given(ROWS, SHARES)
def test_rho_keeps_the_largest_excess_of_the_policy_over_the_oracle_on_either_side(rows, percent):
    both = [*rows, *rows]
    scores, valid = grid(both)
    ratios = torch.linspace(-3, 3, scores.numel()).view(scores.shape)
    masks = build_masks(0, 0, mask="excess", share="reward_only", k_chosen=percent / 100, k_rejected=percent / 100)
    m_u, _ = masks(MaskInputs(valid, values=scores, logratio=ratios))
    excess = [(own - ratio)[ok].tolist() for own, ratio, ok in zip(scores, ratios, valid, strict=True)]
    assert [own[ok].tolist() for own, ok in zip(m_u, valid, strict=True)] == [
        kept_one_by_one(row, percent) for row in excess
    ]


def sides(rows, scores):
    """Both sides of a batch with these log-probs, weighted as SePO does with k = 100%."""
    logps, valid = grid([*rows, *rows[::-1]], 0.0)
    longest = valid.shape[1]
    masks = build_masks(0, 0, mask="selected", share="reward_only", k_chosen=1.0, k_rejected=1.0)
    m_u, m_d = masks(MaskInputs(valid, values=torch.tensor(scores)[None].expand(len(valid), -1)[:, :longest]))
    half = len(rows)
    parts = ((logps[at], valid[at], m_u[at], m_d[at]) for at in (slice(half), slice(half, None)))
    return [Side(own.double(), None, None, None, ok, m_u=u, m_d=d) for own, ok, u, d in parts]


@given(ROWS, st.floats(0.1, 5))
def test_all_tokens_kept_is_the_dense_loss_simpo_without_a_margin(rows, beta):
    oracle = [float(number) for number in (3, -1, 2, 0, 5, -4, 1, 7, -2)]
    chosen, rejected = sides([[-abs(x) - 0.5 for x in row] for row in rows], oracle)
    found = sepo(chosen, rejected, beta=beta).loss
    dense = [
        -math.log(1 / (1 + math.exp(-beta * (own.logps[ok].mean() - other.logps[no].mean()).item())))
        for own, other, ok, no in (
            (_row(chosen, at), _row(rejected, at), chosen.valid[at], rejected.valid[at]) for at in range(len(rows))
        )
    ]
    assert found.tolist() == pytest.approx(dense)
    dense_simpo = simpo(_bare(chosen), _bare(rejected), beta=beta, gamma=0.0).loss
    torch.testing.assert_close(found, dense_simpo)


def _row(side, at):
    return type("Row", (), {"logps": side.logps[at]})


def _bare(side):
    return Side(side.logps, None, None, None, side.valid)
