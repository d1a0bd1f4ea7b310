"""Fused token terms against a plain float64 log-softmax, and the label shift against rows worked out by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsepo.objective.lm_head import LMHead
from sparsepo.objective.response_index import ResponseIndex
from sparsepo.objective.token_terms import token_entropy, token_terms

NAMES = ("logps", "ref_logps", "reverse_kl", "forward_kl")
SHAPES = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.25},
    "softcap": {"softcap": 3.0},
    "all": {"bias": True, "scale": 1.7, "softcap": 2.0},
}


def problem(n=9, width=5, ref_width=4, vocabulary=11, *, bias=False, scale=1.0, softcap=None, seed=0, spread=1.0):
    """Random states, heads and labels in float64; the policy's tensors want gradients."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return spread * torch.randn(*shape, generator=draw, dtype=torch.float64)

    return SimpleNamespace(
        hidden=normal(n, width).requires_grad_(),
        weight=normal(vocabulary, width).requires_grad_(),
        bias=normal(vocabulary).requires_grad_() if bias else None,
        ref_hidden=normal(n, ref_width),
        ref_head=LMHead(normal(vocabulary, ref_width), normal(vocabulary) if bias else None, scale / 2, softcap),
        labels=torch.randint(vocabulary, (n,), generator=draw),
        cotangent={name: normal(n) for name in NAMES},
        scale=scale,
        softcap=softcap,
    )


def fused(p, **options):
    head = LMHead(p.weight, p.bias, p.scale, p.softcap)
    return token_terms(p.hidden, p.ref_hidden, head, p.ref_head, p.labels, **options)


def plain(p):
    """The definition, with every logit in memory at once."""

    def log_softmax(hidden, weight, bias, scale, softcap):
        z = hidden @ weight.T + (0 if bias is None else bias)
        z = z * scale if softcap is None else softcap * torch.tanh(z * scale / softcap)
        return z - z.logsumexp(-1, keepdim=True)

    log_p = log_softmax(p.hidden, p.weight, p.bias, p.scale, p.softcap)
    ref = p.ref_head
    log_q = log_softmax(p.ref_hidden, ref.weight, ref.bias, ref.scale, ref.softcap)
    rows = torch.arange(len(p.labels))
    return SimpleNamespace(
        logps=log_p[rows, p.labels],
        ref_logps=log_q[rows, p.labels],
        reverse_kl=(log_p.exp() * (log_p - log_q)).sum(-1),
        forward_kl=(log_q.exp() * (log_q - log_p)).sum(-1),
    )


def gradients(p, terms, names=("logps", "reverse_kl", "forward_kl")):
    total = sum((p.cotangent[name] * getattr(terms, name)).sum() for name in names)
    return torch.autograd.grad(total, [tensor for tensor in (p.hidden, p.weight, p.bias) if tensor is not None])


# --- values and gradients


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_terms_and_gradients_are_those_of_a_plain_log_softmax(shape, chunk):
    p = problem(**SHAPES[shape])
    found, expected = fused(p, chunk=chunk), plain(p)
    for name in NAMES:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients(p, found), gradients(p, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("names", [("logps",), ("reverse_kl",), ("forward_kl",), ("logps", "forward_kl")])
def test_a_loss_that_uses_only_some_terms_gets_their_gradient_alone(names):
    p = problem(bias=True)
    for mine, theirs in zip(gradients(p, fused(p), names), gradients(p, plain(p), names), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["logps", "reverse_kl", "forward_kl"])
@pytest.mark.parametrize("shape", ["plain", "all"])
def test_gradients_are_those_of_finite_differences(name, shape):
    p = problem(n=4, vocabulary=6, **SHAPES[shape])
    inputs = [tensor for tensor in (p.hidden, p.weight, p.bias) if tensor is not None]

    def term(hidden, weight, bias=None):
        head = LMHead(weight, bias, p.scale, p.softcap)
        return getattr(token_terms(hidden, p.ref_hidden, head, p.ref_head, p.labels, chunk=3), name)

    assert torch.autograd.gradcheck(term, inputs, eps=1e-6, atol=1e-8, rtol=1e-6)


def test_the_reference_gets_no_gradient():
    p = problem(bias=True)
    p.ref_hidden.requires_grad_()
    p.ref_head.weight.requires_grad_()
    p.ref_head.bias.requires_grad_()
    terms = fused(p)
    assert not terms.ref_logps.requires_grad
    (terms.logps + terms.reverse_kl + terms.forward_kl).sum().backward()
    assert p.ref_hidden.grad is None and p.ref_head.weight.grad is None and p.ref_head.bias.grad is None
    assert p.hidden.grad.abs().sum() > 0


@pytest.mark.parametrize("trains", ["hidden", "weight", "bias"])
def test_a_single_trained_tensor_gets_the_gradient_it_gets_among_all(trains):
    p, all_of_it = problem(bias=True), problem(bias=True)
    for name in ("hidden", "weight", "bias"):
        getattr(p, name).requires_grad_(name == trains)
    for q in (p, all_of_it):
        terms = fused(q)
        (terms.logps.sum() + terms.reverse_kl.sum()).backward()
    torch.testing.assert_close(getattr(p, trains).grad, getattr(all_of_it, trains).grad, rtol=0, atol=1e-14)


def test_no_response_token_at_all_gives_empty_terms():
    p = problem(n=0)
    assert all(getattr(fused(p), name).shape == (0,) for name in NAMES)


def test_two_uniform_models_give_log_of_the_vocabulary_and_no_kl():
    head = LMHead(torch.zeros(7, 3))
    terms = token_terms(torch.randn(2, 3), torch.randn(2, 3), head, head, torch.tensor([0, 6]))
    assert terms.logps.tolist() == pytest.approx([-math.log(7)] * 2)
    assert terms.reverse_kl.tolist() == terms.forward_kl.tolist() == [0.0, 0.0]


def test_kl_directions_are_named_as_worked_out_by_hand():
    """pi = (3/4, 1/4), ref = (1/2, 1/2): KL(pi || ref) = log 2 - H(pi), KL(ref || pi) = -log 2 - (log 3/16) / 2."""
    policy, reference = LMHead(torch.tensor([[math.log(3.0)], [0.0]])), LMHead(torch.zeros(2, 1))
    terms = token_terms(torch.ones(1, 1), torch.ones(1, 1), policy, reference, torch.tensor([1]))
    assert terms.logps.item() == pytest.approx(math.log(1 / 4), rel=1e-6)
    assert terms.ref_logps.item() == pytest.approx(math.log(1 / 2), rel=1e-6)
    assert terms.reverse_kl.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert terms.forward_kl.item() == pytest.approx(-math.log(2) - 0.5 * math.log(3 / 16), rel=1e-6)


# --- precision


@pytest.mark.parametrize("distance", [1e-3, 1e-2, 1e-1])
def test_bfloat16_states_give_the_kl_of_their_own_rounded_logits(distance):
    """Small KLs are where a softmax in bfloat16 fails; the float64 oracle starts from the same rounded logits."""
    p = problem(n=40, width=16, ref_width=16, vocabulary=200, spread=0.7)
    hidden = p.hidden.detach().bfloat16()
    weight, ref_weight = p.weight.detach().bfloat16(), p.weight.detach().bfloat16()
    ref_hidden = (p.hidden.detach() + distance * torch.randn(40, 16, dtype=torch.float64)).bfloat16()
    terms = token_terms(hidden, ref_hidden, LMHead(weight), LMHead(ref_weight), p.labels)
    log_p, log_q = (torch.nn.functional.linear(h, weight).double().log_softmax(-1) for h in (hidden, ref_hidden))
    reverse = (log_p.exp() * (log_p - log_q)).sum(-1)
    forward = (log_q.exp() * (log_q - log_p)).sum(-1)
    assert terms.reverse_kl.dtype == torch.float32
    torch.testing.assert_close(terms.reverse_kl.double(), reverse, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(terms.forward_kl.double(), forward, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(terms.logps.double(), log_p.gather(1, p.labels[:, None])[:, 0], rtol=1e-5, atol=1e-5)


def test_bfloat16_gradients_are_close_to_those_of_float64():
    p = problem(n=40, width=16, ref_width=16, vocabulary=200, spread=0.5, bias=True)
    wide = gradients(p, plain(p))
    for name in ("hidden", "weight", "bias"):
        setattr(p, name, getattr(p, name).detach().bfloat16().requires_grad_())
    p.ref_hidden = p.ref_hidden.bfloat16()
    p.ref_head = LMHead(p.ref_head.weight.bfloat16(), p.ref_head.bias.bfloat16(), p.ref_head.scale)
    p.cotangent = {name: value.float() for name, value in p.cotangent.items()}
    for mine, theirs in zip(gradients(p, fused(p)), wide, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.double() - theirs).norm() < 0.03 * theirs.norm()


def test_gradients_of_half_precision_weights_are_summed_over_chunks_in_float32():
    """Two uniform tokens: each row adds (1/2, -1/2) to the bias, 300 in all; a bfloat16 sum would stall at 128."""
    head = LMHead(torch.zeros(2, 1).bfloat16().requires_grad_(), torch.zeros(2).bfloat16().requires_grad_())
    ones = torch.ones(600, 1).bfloat16()
    token_terms(ones, ones, head, head, torch.zeros(600, dtype=torch.long), chunk=1).logps.sum().backward()
    assert head.bias.grad.tolist() == [300.0, -300.0]
    assert head.weight.grad.tolist() == [[300.0], [-300.0]]


def test_autocast_computes_logits_in_its_dtype_and_statistics_in_float32():
    p = problem(n=6)
    low = {name: getattr(p, name).detach().float() for name in ("hidden", "weight", "ref_hidden")}
    head, ref_head = LMHead(low["weight"]), LMHead(p.ref_head.weight.float(), scale=p.ref_head.scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = token_terms(low["hidden"], low["ref_hidden"], head, ref_head, p.labels)
    halves = [LMHead(h.weight.bfloat16(), scale=h.scale) for h in (head, ref_head)]
    half = token_terms(low["hidden"].bfloat16(), low["ref_hidden"].bfloat16(), *halves, p.labels)
    for name in NAMES:
        assert getattr(mixed, name).dtype == torch.float32
        assert torch.equal(getattr(mixed, name), getattr(half, name))


# --- extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_logits_of_ten_thousand_stay_finite(dtype):
    """Each row of one model is certain of a token to which the other gives probability 0 after underflow."""
    weight = torch.eye(4, dtype=dtype).requires_grad_()
    hidden = torch.tensor([[1e4, 0, 0, -1e4], [-1e4, 1e4, 0, 0]], dtype=dtype).requires_grad_()
    ref_hidden = torch.tensor([[-1e4, 0, 0, 1e4], [-1e4, 1e4, 0, 0]], dtype=dtype)
    terms = token_terms(hidden, ref_hidden, LMHead(weight), LMHead(torch.eye(4, dtype=dtype)), torch.tensor([3, 1]))
    exact = dtype != torch.bfloat16  # which rounds 1e4 to 9984
    assert terms.logps.tolist() == pytest.approx([-2e4, 0.0], rel=0 if exact else 2e-3, abs=1e-9)
    assert terms.reverse_kl.tolist() == pytest.approx([2e4, 0.0], rel=0 if exact else 2e-3, abs=1e-9)
    assert terms.forward_kl.tolist() == pytest.approx([2e4, 0.0], rel=0 if exact else 2e-3, abs=1e-9)
    # d logp = onehot(3) - onehot(0), d forward = onehot(0) - onehot(3), d reverse = 0 where p is certain
    (3 * terms.logps + terms.reverse_kl + terms.forward_kl).sum().backward()
    assert hidden.grad.tolist() == [[-2, 0, 0, 2], [0, 0, 0, 0]]
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_token_that_both_models_ban_changes_nothing(dtype):
    """Logit -inf in both: values and gradients are those of the vocabulary without that token."""
    p = problem(n=6, vocabulary=8, bias=True)
    p.labels = p.labels % 7
    banned = torch.tensor([0.0] * 7 + [-torch.inf], dtype=dtype)
    results = []
    for keep, ban in ((8, banned), (7, banned[:7])):
        hidden, weight = (value.detach().to(dtype).requires_grad_() for value in (p.hidden, p.weight[:keep]))
        bias = (p.bias[:keep].detach().to(dtype) + ban).requires_grad_()
        ref_head = LMHead(p.ref_head.weight[:keep].to(dtype), p.ref_head.bias[:keep].to(dtype) + ban)
        terms = token_terms(hidden, p.ref_hidden.to(dtype), LMHead(weight, bias), ref_head, p.labels)
        (terms.logps + 2 * terms.reverse_kl + 3 * terms.forward_kl).sum().backward()
        results.append((terms, [hidden.grad, weight.grad[:7], bias.grad[:7]], [weight.grad[7:], bias.grad[7:]]))
    (with_ban, grads, banned_grads), (without, expected, _) = results
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for name in NAMES:
        torch.testing.assert_close(getattr(with_ban, name), getattr(without, name), rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    assert all(not grad.any() for grad in banned_grads)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.0, 1e-4, 1e-2, 1.0, 30.0, 1e3]),
    near=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_kl_is_never_negative(seed, spread, near, dtype):
    p = problem(n=6, width=4, ref_width=4, vocabulary=30, seed=seed, spread=spread)
    hidden, weight = p.hidden.detach().to(dtype), p.weight.detach().to(dtype)
    ref_hidden = hidden + 1e-3 if near else p.ref_hidden.to(dtype)
    ref_weight = weight if near else p.ref_head.weight.to(dtype)
    terms = token_terms(hidden, ref_hidden, LMHead(weight), LMHead(ref_weight), p.labels)
    assert all(getattr(terms, name).isfinite().all() for name in NAMES)
    assert (terms.reverse_kl >= 0).all() and (terms.forward_kl >= 0).all()
    assert (terms.logps <= 0).all() and (terms.ref_logps <= 0).all()


# --- memory


def test_nothing_as_large_as_tokens_times_vocabulary_is_kept_for_the_backward_pass():
    n, vocabulary, chunk = 64, 500, 8
    p = problem(n=n, vocabulary=vocabulary, bias=True, softcap=5.0)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fused(p, chunk=chunk)
    weights = vocabulary * max(p.weight.shape[1], p.ref_head.weight.shape[1])
    assert kept and max(kept) <= max(chunk * vocabulary, weights) < n * vocabulary


@pytest.mark.parametrize("passes", ["forward", "backward"])
def test_no_tensor_of_more_than_a_chunk_of_logits_is_ever_made(passes):
    """Every tensor an operator returns is watched, also those that are freed at once."""
    n, vocabulary, chunk = 64, 500, 8
    p = problem(n=n, vocabulary=vocabulary, bias=True)
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.extend(leaf.numel() for leaf in tree_leaves(out) if torch.is_tensor(leaf))
            return out

    with Watch():
        terms = fused(p, chunk=chunk)
        if passes == "backward":
            (terms.logps + terms.reverse_kl + terms.forward_kl).sum().backward()
    assert max(largest) <= chunk * vocabulary


@pytest.mark.parametrize("bias", [None, torch.randn(11)], ids=["plain", "bias"])
def test_the_logits_of_a_chunk_are_written_over_those_of_the_last(bias):
    hidden, head = torch.randn(7, 4), LMHead(torch.randn(11, 4), bias)
    chunks = [(raw.data_ptr(), raw.clone()) for raw in head.raw_logits(hidden, [slice(0, 2), slice(2, 7)])]
    assert len({address for address, _ in chunks}) == 1
    torch.testing.assert_close(torch.cat([raw for _, raw in chunks]), F.linear(hidden, head.weight, bias))


# --- refusals


def test_different_vocabularies_are_refused_with_both_sizes():
    p = problem()
    with pytest.raises(ValueError, match="different vocabularies: 11 and 12"):
        token_terms(p.hidden, p.ref_hidden, LMHead(p.weight), LMHead(torch.randn(12, 4)), p.labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: {"hidden": p.hidden[None]},
        lambda p: {"ref_hidden": p.ref_hidden[:-1]},
        lambda p: {"ref_hidden": p.ref_hidden[None]},
        lambda p: {"labels": p.labels[:-1]},
        lambda p: {"labels": p.labels[:, None]},
    ],
)
def test_mismatched_shapes_are_refused(change):
    p = problem()
    vars(p).update(change(p))
    with pytest.raises(ValueError, match="are expected, not"):
        fused(p)


# --- where response tokens are


def two_responses():
    """Sequence 0 answers at positions 1 and 2, sequence 1 at 3, each of 4 positions: flattened 1, 2 and 7."""
    return ResponseIndex.from_spans(before=[0, 6], start=[1, 7], length=[2, 1], grid_row=[0, 1])


def test_an_index_of_spans_is_the_one_worked_out_by_hand():
    index = two_responses()
    assert index.token.tolist() == [1, 2, 7]
    assert index.hidden.tolist() == [0, 1, 6]
    assert index.cell.tolist() == [0, 1, 2]
    assert index.valid.tolist() == [[True, True], [True, False]]
    assert index.select_labels(torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])).tolist() == [11, 12, 23]
    assert index.select_hidden(torch.arange(8.0).reshape(2, 4, 1)).tolist() == [[0.0], [1.0], [6.0]]
    assert index.select_hidden(torch.arange(8.0).reshape(2, 4)).tolist() == [0.0, 1.0, 6.0]
    assert index.to_grid(torch.tensor([5.0, 6.0, 7.0])).tolist() == [[5.0, 6.0], [7.0, 0.0]]
    assert index.to_grid(torch.tensor([[5.0], [6.0], [7.0]])).shape == (2, 2, 1)


def test_a_first_token_may_be_predicted_from_anywhere_before_it():
    """As where two responses share a prompt: the second one follows the first, and is predicted by the prompt."""
    index = ResponseIndex.from_spans(before=[1, 1], start=[2, 4], length=[2, 2], grid_row=[0, 1])
    assert index.hidden.tolist() == [1, 2, 1, 4]


def test_the_grid_passes_gradients_to_the_tokens_it_holds():
    values = torch.tensor([5.0, 6.0, 7.0], requires_grad=True)
    (two_responses().to_grid(values) * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert values.grad.tolist() == [1.0, 2.0, 3.0]


# --- entropy


def test_the_entropy_is_the_number_worked_out_by_hand():
    """Logits 0 and ln 3: probabilities 1/4 and 3/4. Twice the scale: 1/10 and 9/10. A banned token adds nothing."""
    head = LMHead(torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64))
    hidden = torch.ones(1, 1, dtype=torch.float64)
    quarter, tenth = 0.25 * math.log(4) + 0.75 * math.log(4 / 3), 0.1 * math.log(10) + 0.9 * math.log(10 / 9)
    assert token_entropy(hidden, head).item() == pytest.approx(quarter, abs=1e-12)
    assert token_entropy(hidden, LMHead(head.weight, scale=2.0)).item() == pytest.approx(tenth, abs=1e-12)
    banned = LMHead(torch.zeros(3, 1), torch.tensor([0.0, math.log(3), -torch.inf]))
    assert token_entropy(torch.ones(1, 1), banned).item() == pytest.approx(quarter, abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_entropy_is_that_of_torch_whatever_the_chunks(shape, chunk):
    p = problem(**SHAPES[shape])
    z = p.hidden @ p.weight.T + (0 if p.bias is None else p.bias)
    z = z * p.scale if p.softcap is None else p.softcap * torch.tanh(z * p.scale / p.softcap)
    expected = torch.distributions.Categorical(logits=z.detach()).entropy()
    found = token_entropy(p.hidden, LMHead(p.weight, p.bias, p.scale, p.softcap), chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not found.requires_grad


def test_the_entropy_of_no_tokens_is_empty():
    assert token_entropy(torch.zeros(0, 2), LMHead(torch.zeros(5, 2))).shape == (0,)
