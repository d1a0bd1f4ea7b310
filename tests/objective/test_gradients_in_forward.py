"""Gradients computed in the forward pass against autograd on a plain log-softmax, for sums over pairs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo.objective.lm_head import LMHead
from sparsepo.objective.token_terms import SummedLoss, token_terms

TOKENS = 5  # of a pair; the first three are the chosen side
SHAPES = {"plain": {}, "bias": {"bias": True}, "scaled and capped": {"scale": 1.7, "softcap": 2.0}}


def sparse(sign, terms, weights):
    """Per pair: u from m_u and the log-ratio, delta from m_d and a KL, and an L1 on m_u."""
    m_u, m_d = (weight.view(-1, TOKENS) for weight in weights)
    parts = m_u * (terms["logps"] - terms["ref_logps"]).view(-1, TOKENS) - m_d * terms["reverse_kl"].view(-1, TOKENS)
    return (-F.logsigmoid(0.3 * (sign * parts).sum(-1)) + 0.01 * m_u.abs().sum(-1)).sum()


def stopped(sign, terms, weights):
    """As TDPO v2: the KL of one side passes no gradient; only one of the weights is used."""
    kl = terms["forward_kl"].view(-1, TOKENS)
    held = torch.where(sign > 0, kl.detach(), kl)
    return -F.logsigmoid((sign * terms["logps"].view(-1, TOKENS) - weights[0].view(-1, TOKENS) * held).sum(-1)).sum()


def curved(sign, terms, weights):
    """A weight that the policy itself decides, and no reference term at all besides the KL."""
    kl = terms["reverse_kl"].view(-1, TOKENS)
    inner = (sign * kl / (1 + kl) * terms["logps"].view(-1, TOKENS)).sum(-1)
    return (inner**2 + weights[1].view(-1, TOKENS).sum(-1)).sum()


LOSSES = {"sparse": sparse, "stopped": stopped, "curved": curved}
SIGN = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0], dtype=torch.float64)


def problem(pairs, *, bias=False, scale=1.0, softcap=None, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    n = pairs * TOKENS
    trained = [normal(n, 6), normal(13, 6), normal(13) if bias else None]
    weights = [torch.rand(n, generator=draw, dtype=torch.float64) for _ in range(2)]
    reference = normal(n, 4), LMHead(normal(13, 4), normal(13) if bias else None, scale / 2, softcap)
    return trained, weights, reference, torch.randint(13, (n,), generator=draw), scale, softcap


def plain(loss, made):
    """Loss and gradients by autograd, every logit in memory."""
    (hidden, weight, bias), weights, (ref_hidden, ref), labels, scale, softcap = made
    leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias, *weights) if t is not None]
    own = iter(leaves)
    hidden, weight, bias = next(own), next(own), None if bias is None else next(own)

    def log_softmax(states, matrix, shift, factor):
        z = (states @ matrix.T + (0 if shift is None else shift)) * factor
        return (z if softcap is None else softcap * torch.tanh(z / softcap)).log_softmax(-1)

    log_p, log_q = log_softmax(hidden, weight, bias, scale), log_softmax(ref_hidden, ref.weight, ref.bias, ref.scale)
    rows = torch.arange(len(labels))
    terms = {
        "logps": log_p[rows, labels],
        "ref_logps": log_q[rows, labels],
        "reverse_kl": (log_p.exp() * (log_p - log_q)).sum(-1),
        "forward_kl": (log_q.exp() * (log_q - log_p)).sum(-1),
    }
    value = loss(SIGN, terms, list(own))
    return value, terms, torch.autograd.grad(3.0 * value, leaves, allow_unused=True)


def in_forward(loss, made, groups):
    (hidden, weight, bias), weights, (ref_hidden, ref), labels, scale, softcap = made
    leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias, *weights) if t is not None]
    own = iter(leaves)
    hidden, weight, bias = next(own), next(own), None if bias is None else next(own)
    summed = SummedLoss(lambda rows, terms, values: loss(SIGN, vars(terms), values), groups, list(own))
    terms = token_terms(hidden, ref_hidden, LMHead(weight, bias, scale, softcap), ref, labels, loss=summed)
    assert not any(getattr(terms, name).requires_grad for name in ("logps", "ref_logps", "reverse_kl", "forward_kl"))
    return terms.total, terms, torch.autograd.grad(3.0 * terms.total, leaves, allow_unused=True)


def assert_same(mine, theirs):
    (value, terms, grads), (expected, expected_terms, expected_grads) = mine, theirs
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for name, term in expected_terms.items():
        torch.testing.assert_close(getattr(terms, name), term.detach(), rtol=1e-12, atol=1e-12)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, torch.zeros_like(grad) if other is None else other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_terms_and_gradients_are_those_of_autograd(name, shape):
    made = problem(4, **SHAPES[shape])
    groups = [slice(0, 5), slice(5, 15), slice(15, 20)]
    assert_same(in_forward(LOSSES[name], made, groups), plain(LOSSES[name], made))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.sets(st.integers(1, 5)), name=st.sampled_from(sorted(LOSSES)))
def test_how_pairs_are_grouped_changes_nothing(seed, cuts, name):
    made = problem(6, seed=seed)
    ends = [0, *(TOKENS * cut for cut in sorted(cuts)), 6 * TOKENS]
    groups = [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    assert_same(in_forward(LOSSES[name], made, groups), plain(LOSSES[name], made))


@pytest.mark.parametrize("trains", ["hidden", "weight", "bias", "m_u", "m_d"])
def test_a_single_trained_tensor_gets_the_gradient_it_gets_among_all(trains):
    made = problem(3, bias=True)
    (hidden, weight, bias), (m_u, m_d), (ref_hidden, ref), labels, *_ = made
    leaves = {"hidden": hidden, "weight": weight, "bias": bias, "m_u": m_u, "m_d": m_d}
    expected = dict(zip(leaves, plain(sparse, made)[2], strict=True))
    leaves = {name: value.clone().requires_grad_(name == trains) for name, value in leaves.items()}
    loss = SummedLoss(
        lambda rows, terms, values: sparse(SIGN, vars(terms), values),
        [slice(0, 15)],
        [leaves["m_u"], leaves["m_d"]],
    )
    head = LMHead(leaves["weight"], leaves["bias"])
    (3.0 * token_terms(leaves["hidden"], ref_hidden, head, ref, labels, loss=loss).total).backward()
    torch.testing.assert_close(leaves[trains].grad, expected[trains], rtol=1e-11, atol=1e-11)
    assert all(leaf.grad is None for name, leaf in leaves.items() if name != trains)


def test_bfloat16_gradients_are_those_of_recomputation():
    """Both ways see the same rounded logits and write the same rounded gradient of them."""
    (hidden, weight, _), weights, (ref_hidden, ref), labels, *_ = problem(4)
    found = []
    for way in ("forward", "recompute"):
        states, matrix = (value.bfloat16().requires_grad_() for value in (hidden, weight))
        where = states, ref_hidden.bfloat16(), LMHead(matrix), LMHead(ref.weight.bfloat16()), labels
        values = [value.float() for value in weights]
        if way == "forward":
            loss = SummedLoss(lambda r, terms, v: sparse(SIGN.float(), vars(terms), v), [slice(0, 20)], values)
            token_terms(*where, loss=loss).total.backward()
        else:
            sparse(SIGN.float(), vars(token_terms(*where)), values).backward()
        found.append((states.grad, matrix.grad))
    for mine, theirs in zip(*found, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, theirs)


def test_the_policy_alone_gives_its_log_probs_and_their_gradient():
    """No reference: as SimPO needs it."""
    (hidden, weight, _), _, _, labels, *_ = problem(3)
    found = []
    for fused in (True, False):
        states, matrix = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if fused:
            terms = token_terms(states, None, LMHead(matrix), None, labels, kl=(), chunk=4)
            assert terms.ref_logps is terms.reverse_kl is terms.forward_kl is None
            logps = terms.logps
        else:
            logps = (states @ matrix.T).log_softmax(-1).gather(1, labels[:, None])[:, 0]
        (logps**2).sum().backward()
        found.append((logps.detach(), states.grad, matrix.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kl", [(), ("reverse",), ("forward",)])
def test_only_the_directions_asked_for_are_computed(kl):
    (hidden, weight, _), _, (ref_hidden, ref), labels, *_ = problem(2)
    terms = token_terms(hidden, ref_hidden, LMHead(weight), ref, labels, kl=kl)
    whole = token_terms(hidden, ref_hidden, LMHead(weight), ref, labels)
    for direction in ("reverse", "forward"):
        value = getattr(terms, f"{direction}_kl")
        assert (value is not None) == (direction in kl)
        if value is not None:
            torch.testing.assert_close(value, getattr(whole, f"{direction}_kl"))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"kl": ("reverse",)}, "give both ref_hidden and ref_head"),
        ({"kl": ("backward",)}, "kl may name reverse, forward"),
    ],
)
def test_a_kl_without_a_reference_and_an_unknown_direction_are_refused(given, message):
    (hidden, weight, _), _, (ref_hidden, ref), labels, *_ = problem(1)
    known = given["kl"] != ("reverse",)
    where = hidden, ref_hidden if known else None, LMHead(weight), ref if known else None
    with pytest.raises(ValueError, match=message):
        token_terms(*where, labels, **given)
