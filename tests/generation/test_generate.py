"""Sampling against distributions that are known: what is drawn, in which order, and what it depends on."""

import copy
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.encoding import Encoder
from sparsepo.data.records import Prompt
from sparsepo.generation.generate import check_prompt_lengths, make_completion, sample
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError

WORDS = [f"w{number:02}" for number in range(70)]
PROMPTS = [Prompt(text) for text in ("w01 w02 w03", "w04", "w05 w06 w07", "w08 w09", "w10")]
UNLIKELY = 1e-4  # a p-value below says that the samples do not follow the distribution


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], "word", 100)


@pytest.fixture(scope="module")
def network(tokenizer):
    """A random GPT-2 whose next word depends on all before it."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), initializer_range=0.5, **size, **ids)).eval()


def dice(probabilities):
    """A GPT-2 that draws every token, whatever came before, from `probabilities`."""
    config = GPT2Config(
        vocab_size=len(probabilities), n_embd=4, n_layer=1, n_head=1, n_positions=32, tie_word_embeddings=False
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        model.lm_head.weight[:, 0] = probabilities.log()
    return model


def flat(tokenizer):
    """No two alike, none rare: between 1/2 and 3/2 of the mean."""
    weights = torch.linspace(0.5, 1.5, len(tokenizer), dtype=torch.float64)
    return weights / weights.sum()


def drawn(model, tokenizer, count=4000, at=0, **changed):
    """How often each token stands at place `at` of a response."""
    config = SamplingConfig(**{"samples": count, "batch_size": count, "max_new_tokens": at + 1} | changed)
    counts = Counter(made.tokens[at] for made in sample(model, tokenizer, PROMPTS[:1], config) if len(made.tokens) > at)
    return torch.tensor([counts[token] for token in range(len(tokenizer))], dtype=torch.float64)


def p_value(counts, probabilities):
    assert counts[probabilities == 0].sum() == 0
    possible = probabilities > 0
    return chisquare(counts[possible], counts.sum() * probabilities[possible] / probabilities.sum()).pvalue


# --- the distribution


def test_samples_follow_the_model_and_nothing_else(tokenizer):
    """With the top_k of 50 that transformers has by default, at most 50 tokens would be seen."""
    counts = drawn(dice(flat(tokenizer)), tokenizer)
    assert (counts > 0).sum() == len(tokenizer) > 50
    assert p_value(counts, flat(tokenizer)) > UNLIKELY


def test_so_does_the_second_token(tokenizer):
    counts = drawn(dice(flat(tokenizer)), tokenizer, at=1)
    assert p_value(counts, flat(tokenizer)) > UNLIKELY


def test_so_do_samples_of_one_prompt_in_many_batches(tokenizer):
    """Batches that look alike must not draw alike: 40 times the same 100 samples would be far off."""
    counts = drawn(dice(flat(tokenizer)), tokenizer, batch_size=100)
    assert p_value(counts, flat(tokenizer)) > UNLIKELY


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_and_flattens(tokenizer, temperature):
    counts = drawn(dice(flat(tokenizer)), tokenizer, temperature=temperature)
    assert p_value(counts, flat(tokenizer) ** (1 / temperature)) > UNLIKELY
    assert p_value(counts, flat(tokenizer)) < UNLIKELY


def test_top_p_leaves_the_fewest_tokens_that_hold_the_share(tokenizer):
    probabilities = flat(tokenizer)
    order = probabilities.argsort(descending=True)
    kept = order[: int((probabilities[order].cumsum(0) < 0.5).sum()) + 1]
    expected = torch.zeros_like(probabilities)
    expected[kept] = probabilities[kept]
    counts = drawn(dice(probabilities), tokenizer, top_p=0.5)
    assert (counts > 0).sum() == len(kept) < 40
    assert p_value(counts, expected) > UNLIKELY


@pytest.mark.parametrize(
    "own",
    [{"repetition_penalty": 9.0}, {"no_repeat_ngram_size": 1}, {"min_p": 0.9}, {"num_beams": 2}, {"max_time": 1e-9}],
)
def test_a_models_own_generation_config_does_not_act(tokenizer, network, own):
    """Published chat models come with a penalty of repetition."""
    config = SamplingConfig(samples=4, max_new_tokens=12)
    opinionated = copy.deepcopy(network)
    opinionated.generation_config.update(**own)
    assert sample(opinionated, tokenizer, PROMPTS, config) == sample(network, tokenizer, PROMPTS, config)
    assert {name: getattr(opinionated.generation_config, name) for name in own} == own


@pytest.mark.parametrize("pad", ["<pad>", "<end>"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_prompt_in_a_batch_of_longer_ones_is_continued_as_if_alone(tokenizer, network, architecture, pad):
    """At a temperature of almost zero the most likely token is drawn, which a loop without padding finds too."""
    model, tokenizer = network, copy.deepcopy(tokenizer)
    tokenizer.pad_token = pad
    if architecture == "llama":
        torch.manual_seed(0)
        size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **size)).eval()
    made = sample(model, tokenizer, PROMPTS, SamplingConfig(temperature=1e-5, max_new_tokens=6, batch_size=5))
    for completed in made:
        ids = tokenizer(completed.prompt)["input_ids"]
        for token in completed.tokens:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)


# --- what a text depends on


def test_one_seed_gives_one_text_and_another_seed_another(tokenizer, network):
    first, again, other = (
        sample(network, tokenizer, PROMPTS, SamplingConfig(max_new_tokens=8, seed=seed)) for seed in (3, 3, 4)
    )
    assert first == again
    assert all(mine.tokens != theirs.tokens for mine, theirs in zip(first, other, strict=True))


def test_a_batch_does_not_depend_on_the_batches_around_it(tokenizer, network):
    config = SamplingConfig(samples=2, batch_size=2, max_new_tokens=8)
    together = sample(network, tokenizer, PROMPTS, config)
    apart = [made for prompt in PROMPTS for made in sample(network, tokenizer, [prompt], config)]
    assert together == apart
    assert sample(network, tokenizer, PROMPTS[::-1], config)[:2] == together[-2:]


def test_the_random_state_of_the_program_is_neither_read_nor_changed(tokenizer, network):
    config = SamplingConfig(max_new_tokens=8)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(sample(network, tokenizer, PROMPTS, config))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]


def test_all_samples_of_a_prompt_differ_however_they_fall_into_batches(tokenizer, network):
    """Also those of a prompt that is given twice."""
    for batch_size in (1, 3, 4, 64):
        made = sample(
            network, tokenizer, [PROMPTS[0]] * 2, SamplingConfig(samples=6, max_new_tokens=8, batch_size=batch_size)
        )
        assert len({tuple(row.tokens) for row in made}) == 12


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_responses_come_in_the_order_of_the_prompts(tokenizer, network, batch_size):
    made = sample(network, tokenizer, PROMPTS, SamplingConfig(samples=3, max_new_tokens=4, batch_size=batch_size))
    assert [row.prompt for row in made] == [prompt.prompt for prompt in PROMPTS for _ in range(3)]


def test_a_log_tells_how_many_responses_are_sampled(tokenizer, network, capsys):
    sample(network, tokenizer, PROMPTS, SamplingConfig(samples=3, batch_size=4, max_new_tokens=2))
    assert capsys.readouterr().out.startswith("responses sampled: 15 of 15 in ")


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(tokenizer, network, training):
    model = copy.deepcopy(network).train(training)
    own = model.generation_config
    made = sample(model, tokenizer, PROMPTS, SamplingConfig(max_new_tokens=8))
    assert model.training == training and model.generation_config is own
    assert made == sample(network, tokenizer, PROMPTS, SamplingConfig(max_new_tokens=8))  # no dropout while sampling


# --- where a response ends, and how it reads


def test_a_response_ends_with_its_first_end_token_or_at_the_limit(tokenizer):
    probabilities = flat(tokenizer)
    probabilities[tokenizer.eos_token_id] = 0.4
    made = sample(dice(probabilities), tokenizer, PROMPTS, SamplingConfig(samples=100, max_new_tokens=3))
    for row in made:
        assert row.ended == (row.tokens[-1] == tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in row.tokens[:-1]
        assert row.ended or len(row.tokens) == 3
        assert "<end>" not in row.text
    lengths = Counter((len(row.tokens), row.ended) for row in made)
    assert set(lengths) == {(1, True), (2, True), (3, True), (3, False)}
    end = float(probabilities[tokenizer.eos_token_id] / probabilities.sum())
    stay = 1 - end
    expected = {(1, True): end, (2, True): stay * end, (3, True): stay**2 * end, (3, False): stay**3}
    assert chisquare([lengths[kind] for kind in expected], [500 * p for p in expected.values()]).pvalue > UNLIKELY


CASES = [
    ("word", "a good", "film .", " film ."),
    ("bpe", "a good", " film.", " film."),
    ("bpe", "a go", "od film", "od film"),
    ("bpe", "a good\n", "\nfilm", "\nfilm"),
    ("bpe", "caf", "é film", "é film"),
]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("kind, prompt, response, text", CASES)
def test_prompt_and_text_read_as_the_tokens_do(kind, prompt, response, text, ended):
    tokenizer = train_tokenizer(["a good film .", "a good film.", "a go od film"], kind, 300)
    tokens = tokenizer(response, add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id]
    made = make_completion(Encoder(tokenizer), Prompt(prompt), tokens + end + tokens if ended else tokens)
    assert made.text == text
    assert (made.prompt, made.tokens, made.ended) == (prompt, tokens + end if ended else tokens, ended)


# --- what is refused


def test_prompts_that_fill_the_context_exactly_are_let_through(tokenizer, network):
    check_prompt_lengths(network, tokenizer, PROMPTS, SamplingConfig(max_new_tokens=29), "prompts.jsonl")


@pytest.mark.parametrize("text, tokens, new", [("w01 w02 w03", 3, 30), ("", 0, 8)])
def test_a_prompt_without_room_for_its_response_is_refused_with_its_line(tokenizer, network, text, tokens, new):
    prompts = [*PROMPTS[3:], Prompt(text)]
    with pytest.raises(UserError) as refused:
        check_prompt_lengths(network, tokenizer, prompts, SamplingConfig(max_new_tokens=new), "some/prompts.jsonl")
    assert str(refused.value) == (
        f"some/prompts.jsonl:3: field 'prompt' has {tokens} tokens; with max_new_tokens {new} a prompt needs 1 to "
        f"{32 - new} to fit the model's context of 32"
    )
