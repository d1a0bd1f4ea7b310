"""The INPO loss by hand, and games in which the policy that its rounds end at is known without it."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import fsolve

from sparsepo.objective.losses import inpo, ipo
from sparsepo.objective.response_terms import Side

F64 = torch.float64


def side(logps, ref, values, valid=None):
    rows = [torch.tensor([row], dtype=F64) for row in (logps, ref, values)]
    valid = torch.ones_like(rows[0], dtype=torch.bool) if valid is None else torch.tensor([valid])
    return Side(rows[0].requires_grad_(), rows[1], None, None, valid, values=rows[2])


# --- one pair


def test_the_loss_and_its_gradient_are_those_worked_out_by_hand():
    """D_pi = -3 + 4 = 1, D_ref = -2.5 + 1.5 = -1, D_prev = -2 + 1 = -1; 1 - ratio D_ref - (1 - ratio) D_prev = 2.

    With beta 1/4 the target is 2, so the loss is 0; with beta 1/2 it is (2 - 1)^2, whose derivative by D_pi is 2.
    """
    chosen = side([-1.0, -2.0], [-1.5, -1.0], [-1.5, -0.5])
    rejected = side([-4.0, math.nan], [-1.5, math.nan], [-1.0, math.nan], [True, False])
    assert inpo(chosen, rejected, beta=0.25, ratio=0.3).loss.tolist() == pytest.approx([0.0], abs=1e-12)
    found = inpo(chosen, rejected, beta=0.5, ratio=0.25)
    assert found.loss.tolist() == pytest.approx([1.0], rel=1e-12)
    # rewards: 0.5 (-3 + 0.25 * 2.5 + 0.75 * 2) and 0.5 (-4 + 0.25 * 1.5 + 0.75 * 1)
    assert found.chosen_reward.tolist() == pytest.approx([-0.4375]) and found.rejected_reward.tolist() == [-1.4375]
    found.loss.sum().backward()
    assert chosen.logps.grad.tolist() == [[2.0, 2.0]] and rejected.logps.grad.tolist() == [[-2.0, 0.0]]


def test_the_former_policy_and_the_reference_are_weighed_by_the_ratio():
    """D_pi = 0, D_ref = 3, D_prev = 10; target 1: (0 - 3 r - 10 (1 - r) - 1)^2."""
    for ratio, loss in ((1.0, 16.0), (0.0, 121.0), (0.5, 56.25)):
        found = inpo(side([-1.0], [-1.0], [-1.0]), side([-1.0], [-4.0], [-11.0]), beta=0.5, ratio=ratio)
        assert found.loss.tolist() == pytest.approx([loss])


@pytest.mark.parametrize("ratio", [0.0, 1 / 3, 1.0])
def test_the_first_round_where_the_former_policy_is_the_reference_is_ipo(ratio):
    draw = torch.Generator().manual_seed(0)
    valid = torch.tensor([[True, True, False], [True, True, True]])

    def both(seed):
        draw.manual_seed(seed)
        logps, ref = (-3 * torch.rand(2, 3, generator=draw, dtype=F64) for _ in range(2))
        return Side(logps.requires_grad_(), ref, None, None, valid, values=ref.clone())

    chosen, rejected = both(1), both(2)
    of_inpo = inpo(chosen, rejected, beta=0.2, ratio=ratio)
    of_ipo = ipo(chosen, rejected, beta=0.2, reduction="sum")
    torch.testing.assert_close(of_inpo.loss, of_ipo.loss, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(found.loss.sum(), chosen.logps)[0] for found in (of_inpo, of_ipo)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


# --- games: actions are responses of one token to one prompt; preference[a, b] is P(a is preferred to b)


def expected_loss(logits, reference, former, preference, beta, ratio):
    """Of pairs drawn from the former policy and labelled by the preference: every pair, weighed by its chance."""
    a, b = (part.flatten() for part in torch.meshgrid(*[torch.arange(len(logits))] * 2, indexing="ij"))
    terms = logits.log_softmax(0), reference.log_softmax(0), former.log_softmax(0)
    one, two = (
        Side(*(term[at, None] for term in terms[:2]), None, None, torch.ones(len(at), 1, dtype=torch.bool),
             values=terms[2][at, None])
        for at in (a, b)
    )  # fmt: skip
    chance = (terms[2][a] + terms[2][b]).exp()
    won, lost = (inpo(*order, beta=beta, ratio=ratio).loss for order in ((one, two), (two, one)))
    return (chance * (preference[a, b] * won + (1 - preference[a, b]) * lost)).sum()


def rounds(reference, preference, beta, ratio, count):
    """The policies of `count` rounds. The loss is quadratic in the logits: one step of Newton's is its minimum."""
    former, found = reference.clone(), []
    for _ in range(count):

        def loss(logits, former=former):
            return expected_loss(logits, reference, former, preference, beta, ratio)

        start = former.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(start), start)
        curvature = torch.autograd.functional.hessian(loss, former)
        former = former - torch.linalg.pinv(curvature) @ slope  # singular: adding a number to all logits is no change
        assert torch.autograd.functional.jacobian(loss, former).abs().max() < 1e-9
        found.append(former.softmax(0).numpy())
    return found


@pytest.mark.parametrize(("beta", "ratio"), [(1.0, 1 / 3), (0.5, 0.5), (2.0, 0.1)])
def test_rounds_on_two_actions_end_at_the_regularised_nash_policy(beta, ratio):
    """P(a > pi) - P(b > pi) = q - 1/2 whatever pi is: log pi(a)/pi(b) = log ref(a)/ref(b) + (q - 1/2) / tau."""
    q, reference = 0.8, torch.tensor([0.3, -0.4], dtype=F64)
    preference = torch.tensor([[0.5, q], [1 - q, 0.5]], dtype=F64)
    nash = 1 / (1 + math.exp(-(0.7 + (q - 0.5) / (ratio * beta))))
    found = [policy[0] for policy in rounds(reference, preference, beta, ratio, 60)]
    assert found[-1] == pytest.approx(nash, abs=2e-3 if ratio == 0.1 else 1e-6)
    apart = [abs(one - nash) for one in found[:10]]
    assert apart == sorted(apart, reverse=True) and apart[0] > 0.01, "each round is nearer than the one before"


def test_one_round_on_two_actions_goes_as_far_as_eta_says():
    """From the reference the minimum is at log pi(a)/pi(b) = log ref(a)/ref(b) + (q - 1/2) / eta."""
    q, beta = 0.7, 0.8
    preference = torch.tensor([[0.5, q], [1 - q, 0.5]], dtype=F64)
    (first,) = rounds(torch.tensor([0.1, 0.4], dtype=F64), preference, beta, 1 / 3, 1)
    assert math.log(first[0] / first[1]) == pytest.approx(-0.3 + (q - 0.5) / beta, abs=1e-6)


def test_rounds_on_a_cyclic_game_end_at_its_regularised_nash_policy():
    """Rock beats scissors beats paper beats rock, by unlike odds: no score of each action can tell these preferences.

    The policy wanted is the fixed point pi = ref exp(P(. > pi) / tau) / Z, which a root finder finds without any round.
    """
    preference = torch.tensor([[0.5, 0.9, 0.4], [0.1, 0.5, 0.7], [0.6, 0.3, 0.5]], dtype=F64)
    reference = torch.tensor([0.5, 0.0, -0.8], dtype=F64)
    beta, ratio = 1.0, 1 / 3

    def gap(logits):
        policy = np.exp(logits) / np.exp(logits).sum()
        wanted = reference.numpy() + preference.numpy() @ policy / (beta * ratio)
        return logits - wanted

    root = fsolve(gap, np.zeros(3), xtol=1e-13)
    nash = np.exp(root) / np.exp(root).sum()
    assert np.abs(gap(root)).max() < 1e-9
    found = rounds(reference, preference, beta, ratio, 60)
    assert found[-1] == pytest.approx(nash, abs=1e-9)
    assert np.abs(found[0] - nash).max() > 0.02
