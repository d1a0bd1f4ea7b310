"""Points of the frontier: the means of what single responses get, and nothing disturbed on the way."""

import copy
from statistics import fmean

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.records import Prompt
from sparsepo.evaluation.frontier import FrontierEvaluator, score_samples
from sparsepo.evaluation.kl import response_divergences
from sparsepo.generation.generate import sample
from sparsepo.models.loading import train_tokenizer

WORDS = [f"w{number:02}" for number in range(40)]
PROMPTS = [Prompt("w01 w02"), Prompt("w03"), Prompt("w04 w05 w06")]
SAMPLING = SamplingConfig(samples=2, max_new_tokens=6, batch_size=4)


def network(seed, vocabulary=43):
    torch.manual_seed(seed)
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "resid_pdrop": 0.5}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, initializer_range=0.3, **size)).eval()


def length_of(prompts, texts):
    """A reward that a test can compute: words of prompt and text together."""
    return [float(len((prompt + text).split())) for prompt, text in zip(prompts, texts, strict=True)]


@pytest.fixture(scope="module")
def evaluator():
    tokenizer = train_tokenizer([" ".join(WORDS)], "word", 100)
    return FrontierEvaluator(network(1), tokenizer, PROMPTS, SAMPLING, length_of, batch_size=3)


def test_a_point_is_the_means_over_sampled_responses(evaluator):
    policy = network(0)
    made = sample(policy, evaluator.tokenizer, PROMPTS, SAMPLING)
    apart = response_divergences(policy, evaluator.reference, evaluator.tokenizer, made, 1)
    point = evaluator(policy)
    assert point["samples"] == 6
    assert point["reward"] == fmean(len((row.prompt + row.text).split()) for row in made)
    assert point["kl_sample"] == pytest.approx(fmean(row.sample for row in apart), rel=1e-4)
    assert point["kl_exact"] == pytest.approx(fmean(row.exact for row in apart), rel=1e-4)


def test_samples_rewards_and_divergences_are_in_one_order(evaluator):
    policy = network(0)
    completions = sample(policy, evaluator.tokenizer, PROMPTS, SAMPLING)
    made = score_samples(
        policy, evaluator.reference, evaluator.tokenizer, completions, {"reward": length_of}, batch_size=3
    )
    assert made.completions == completions
    for row, reward, apart in zip(made.completions, made.rewards["reward"], made.divergences, strict=True):
        assert reward == len((row.prompt + row.text).split())
        alone = response_divergences(policy, evaluator.reference, evaluator.tokenizer, [row], 1)[0]
        assert (apart.sample, apart.exact) == (
            pytest.approx(alone.sample, abs=1e-5),
            pytest.approx(alone.exact, abs=1e-5),
        )


def test_the_reference_is_no_distance_from_itself(evaluator):
    point = evaluator(copy.deepcopy(evaluator.reference))
    assert (point["kl_sample"], point["kl_exact"]) == (0.0, 0.0)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_disturbs_neither_mode_nor_gradients_nor_random_numbers(evaluator, training):
    policy = network(0).train(training)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    point = evaluator(policy)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training == training for module in policy.modules())
    assert all(p.requires_grad and p.grad is None for p in policy.parameters())
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert point == evaluator(network(0))  # dropout is off while measuring
