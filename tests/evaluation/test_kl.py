"""Distance of policy and reference on responses, against plain logits and against distributions that are known."""

import math
from statistics import fmean, stdev

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.records import Completion, Prompt
from sparsepo.evaluation.kl import response_divergences
from sparsepo.generation.generate import sample
from sparsepo.models.loading import train_tokenizer

WORDS = [f"w{number:02}" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], "word", 100)


def network(seed, vocabulary, architecture="gpt2"):
    torch.manual_seed(seed)
    if architecture == "gpt2":
        size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, initializer_range=0.3, **size)).eval()
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, initializer_range=0.3, **size)).eval()


def responses(tokenizer):
    """Of one to nine tokens, neither sorted by length nor by prompt."""
    torch.manual_seed(5)
    made = []
    for length in (4, 9, 1, 6, 1, 2, 7):
        tokens = torch.randint(3, len(tokenizer), (length,)).tolist()
        prompt = " ".join(WORDS[: 1 + length % 3])
        made.append(Completion(prompt, "what it says does not matter", tokens, ended=False))
    return made


def by_hand(policy, reference, tokenizer, completion):
    """Sums over tokens of log pi - log ref, KL(pi || ref) and log pi, from the logits of one response, unpadded."""
    prompt = tokenizer(completion.prompt)["input_ids"]
    ids = torch.tensor([prompt + completion.tokens])
    with torch.no_grad():
        log_p, log_q = (model(ids).logits[0].double().log_softmax(-1) for model in (policy, reference))
    drawn, exact, logp = 0.0, 0.0, 0.0
    for at, token in enumerate(completion.tokens):
        mine, theirs = log_p[len(prompt) + at - 1], log_q[len(prompt) + at - 1]
        drawn += float(mine[token] - theirs[token])
        logp += float(mine[token])
        exact += sum(math.exp(p) * (p - q) for p, q in zip(mine.tolist(), theirs.tolist(), strict=True))
    return drawn, exact, logp


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_all_numbers_are_those_of_the_plain_logits_in_the_order_given(tokenizer, architecture, batch_size):
    policy, reference = (network(seed, len(tokenizer), architecture) for seed in (0, 1))
    completions = responses(tokenizer)
    found = response_divergences(policy, reference, tokenizer, completions, batch_size)
    for one, completion in zip(found, completions, strict=True):
        expected = by_hand(policy, reference, tokenizer, completion)
        assert (one.sample, one.exact, one.logp) == tuple(pytest.approx(number, rel=1e-4) for number in expected)
        assert one.exact > 0.01


def test_a_policy_that_is_its_reference_is_nowhere_apart(tokenizer):
    policy, reference = network(0, len(tokenizer)), network(0, len(tokenizer))
    found = response_divergences(policy, reference, tokenizer, responses(tokenizer), 3)
    assert {(one.sample, one.exact) for one in found} == {(0.0, 0.0)}


def test_policy_and_reference_are_not_interchangeable(tokenizer):
    policy, reference = network(0, len(tokenizer)), network(1, len(tokenizer))
    there, back = (
        response_divergences(*pair, tokenizer, responses(tokenizer), 4)
        for pair in ((policy, reference), (reference, policy))
    )
    for one, other in zip(there, back, strict=True):
        assert one.sample == pytest.approx(-other.sample, rel=1e-5)
        assert one.exact != pytest.approx(other.exact, rel=1e-3)


def test_no_responses_have_no_divergences(tokenizer):
    assert response_divergences(network(0, len(tokenizer)), network(1, len(tokenizer)), tokenizer, [], 4) == []


def test_the_mean_over_samples_estimates_what_the_exact_sum_does_with_more_noise(tokenizer):
    policy, reference = network(0, len(tokenizer)), network(1, len(tokenizer))
    config = SamplingConfig(samples=1500, batch_size=500, max_new_tokens=5)
    found = response_divergences(
        policy, reference, tokenizer, sample(policy, tokenizer, [Prompt("w01 w02")], config), 500
    )
    gaps = [one.sample - one.exact for one in found]
    assert abs(fmean(gaps)) < 4 * stdev(gaps) / math.sqrt(len(gaps))
    assert stdev(one.exact for one in found) < stdev(one.sample for one in found)
    assert 10 * stdev(gaps) / math.sqrt(len(gaps)) < fmean(one.exact for one in found)  # so that the bound says much


def dice(probabilities):
    """A GPT-2 that draws every token, whatever came before, from `probabilities`."""
    size = {"n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 32, "tie_word_embeddings": False}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(probabilities), **size)).eval()
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        model.lm_head.weight[:, 0] = probabilities.log()
    return model


def test_the_kl_of_independent_tokens_is_their_kl_times_the_expected_length(tokenizer):
    """The end token ends a response, and counts."""
    p = torch.linspace(0.5, 1.5, len(tokenizer), dtype=torch.float64)
    q = torch.linspace(2.0, 0.2, len(tokenizer), dtype=torch.float64)
    p[tokenizer.eos_token_id] = 8.0
    p, q = p / p.sum(), q / q.sum()
    end, limit = float(p[tokenizer.eos_token_id]), 6
    expected = float((p * (p / q).log()).sum()) * sum((1 - end) ** at for at in range(limit))
    config = SamplingConfig(samples=3000, batch_size=1000, max_new_tokens=limit)
    made = sample(dice(p), tokenizer, [Prompt("w01")], config)
    found = response_divergences(dice(p), dice(q), tokenizer, made, 1000)
    for values in ([one.sample for one in found], [one.exact for one in found]):
        assert abs(fmean(values) - expected) < 4 * stdev(values) / math.sqrt(len(values))
