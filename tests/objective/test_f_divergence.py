"""Energy-based targets on a policy over eight outcomes, where every expectation is a sum: exact against sampled."""

import math

import pytest
import torch

from sparsepo.objective.f_divergence import DIVERGENCES, fit_scale, surrogate, tilted_mean
from sparsepo.runtime.errors import UserError

OUTCOMES = 8


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REFERENCE = drawn(OUTCOMES).log_softmax(0)
ENERGY = 1.5 * drawn(OUTCOMES, seed=1)
TARGET = (REFERENCE + ENERGY).softmax(0)  # p
Z = float((REFERENCE + ENERGY).exp().sum())


def exact(name, pi):
    """By enumeration, from the definitions; JS as the mean of two KLs to the middle."""
    p, middle = TARGET, (TARGET + pi) / 2

    def kl(a, b):
        return (a * (a / b).log()).sum()

    return {
        "kl": lambda: kl(p, pi),
        "reverse_kl": lambda: kl(pi, p),
        "js": lambda: (kl(p, middle) + kl(pi, middle)) / 2,
        "tv": lambda: (p - pi).abs().sum() / 2,
    }[name]()


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_the_expected_gradient_is_that_of_the_exact_divergence(name, baseline):
    """Expectation over all outcomes; the pseudo-reward of JS is that of twice the divergence. Any baseline will do."""
    logits = drawn(OUTCOMES, seed=2).requires_grad_()
    log_pi = logits.log_softmax(0)
    log_w = TARGET.log() - log_pi.detach()
    advantage = DIVERGENCES[name].pseudo_reward(log_w) - baseline
    expected = (log_pi.detach().exp() * surrogate(log_pi, log_pi.detach(), advantage)).sum()
    (found,) = torch.autograd.grad(expected, logits)
    (gradient,) = torch.autograd.grad(exact(name, logits.softmax(0)), logits)
    torch.testing.assert_close(found, (2 if name == "js" else 1) * gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_another_proposal_gives_the_same_expected_gradient(name):
    logits, log_q = drawn(OUTCOMES, seed=2).requires_grad_(), drawn(OUTCOMES, seed=3).log_softmax(0)
    log_pi = logits.log_softmax(0)
    reward = DIVERGENCES[name].pseudo_reward(TARGET.log() - log_pi.detach())
    gradients = [
        torch.autograd.grad((q.exp() * surrogate(log_pi, q, reward)).sum(), logits, retain_graph=True)[0]
        for q in (log_pi.detach(), log_q)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_expectation_of_an_estimate_is_the_divergence(name):
    pi = drawn(OUTCOMES, seed=2).softmax(0)
    mean = (pi * DIVERGENCES[name].estimate((TARGET / pi).log())).sum()
    assert float(mean) == pytest.approx(float(exact(name, pi)), abs=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_mean_of_many_estimates_is_close_to_the_divergence(name):
    pi = drawn(OUTCOMES, seed=2).softmax(0)
    samples = torch.multinomial(pi, 200_000, replacement=True, generator=torch.Generator().manual_seed(4))
    found = DIVERGENCES[name].estimate((TARGET / pi).log()[samples])
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - float(exact(name, pi))) < 4 * error


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_policy_trained_on_its_samples_nears_the_target_by_every_divergence(name):
    """Z and the target are known; the policy starts as the reference."""
    logits, generator = REFERENCE.clone().requires_grad_(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([logits], lr=0.02)
    before = {other: float(exact(other, logits.detach().softmax(0))) for other in DIVERGENCES}
    for step in range(600):
        log_pi = logits.log_softmax(0)
        samples = torch.multinomial(log_pi.detach().exp(), 64, replacement=True, generator=generator)
        rewards = DIVERGENCES[name].pseudo_reward(TARGET.log()[samples] - log_pi.detach()[samples])
        loss = surrogate(log_pi[samples], log_pi.detach()[samples], rewards - rewards.mean()).mean()
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 600)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = {other: float(exact(other, logits.detach().softmax(0))) for other in DIVERGENCES}
    assert all(after[other] < 0.05 * before[other] for other in ("kl", "reverse_kl", "js")), (before, after)
    assert after["tv"] < 0.15 * before["tv"], (before, after)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_very_likely_and_very_unlikely_samples_give_finite_numbers(name):
    log_w = torch.tensor([-900.0, -40.0, 0.0, 40.0, 600.0], dtype=torch.float64)
    for of in (DIVERGENCES[name].pseudo_reward, DIVERGENCES[name].estimate):
        assert of(log_w).isfinite().all()


def test_pseudo_rewards_are_those_of_the_paper():
    """t = 1/2 by hand: 1/t, -(log t + 1), log(1 + 1/t) - log 2, -sign(t - 1)/2."""
    by_hand = {"kl": 2.0, "reverse_kl": math.log(2) - 1, "js": math.log(3) - math.log(2), "tv": 0.5}
    log_w = torch.tensor(math.log(2), dtype=torch.float64)
    assert {name: float(kind.pseudo_reward(log_w)) for name, kind in DIVERGENCES.items()} == pytest.approx(by_hand)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"shapes differ: \(3,\), \(3,\), \(3, 1\)"):
        surrogate(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1))


# --- the parameter of a distributional target


@pytest.mark.parametrize("wanted", [0.02, 0.3, 0.5, 0.97])
def test_a_fitted_target_has_the_wanted_mean_by_enumeration(wanted):
    """Three prompts whose references are uniform over eight outcomes: the samples are all there is."""
    feature = (drawn(3, OUTCOMES, seed=5) > 0).double()
    scale = fit_scale(feature, wanted)
    means = []
    for row in feature.tolist():
        weights = [math.exp(scale * value) / OUTCOMES for value in row]
        means.append(sum(w * value for w, value in zip(weights, row, strict=True)) / sum(weights))
    assert sum(means) / 3 == pytest.approx(wanted, abs=1e-9)


def test_the_mean_that_is_there_needs_no_tilt_and_a_higher_one_a_higher_tilt():
    values = drawn(4, 16, seed=6)
    assert fit_scale(values, float(values.mean())) == pytest.approx(0.0, abs=1e-9)
    scales = [fit_scale(values, float(values.mean()) + step) for step in (-0.5, 0.0, 0.5, 1.0)]
    assert scales == sorted(scales) and tilted_mean(values, scales[-1]) == pytest.approx(float(values.mean()) + 1.0)


def test_a_mean_that_samples_cannot_attain_is_refused_with_what_they_can():
    """The second prompt never has the feature, so the mean of the two is below 1/2."""
    values = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    with pytest.raises(UserError, match="the target mean 0.5 cannot be reached: .* between 0 and 0.5, exclusive"):
        fit_scale(values, 0.5)
    with pytest.raises(UserError, match="the target mean 0.3 cannot be reached: .* between 0.25 and 0.25"):
        fit_scale(torch.full((2, 3), 0.25), 0.3)
