"""Stop strings: against the whole text searched after every token, in both loops, whatever the batch."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.encoding import Encoder
from sparsepo.data.records import Prompt
from sparsepo.generation.generate import make_completion, sample
from sparsepo.generation.sampler import cut_at_stop, stop_criterion
from sparsepo.models.loading import train_tokenizer

CORPUS = ["def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n", "# café 数 数\nclass Sum:\n    pass\n"]
STOPS = ("\nclass", "\nprint", "数", "é", "\n#")
PROMPTS = [Prompt(text, id) for text, id in (("def add", "1"), ("def add(a, b):", "2"), ("# café", "3"))]
BYTES = train_tokenizer(CORPUS, "bpe", 300)
"""Any byte is a token, so that some tokens are parts of a character."""


@pytest.fixture(scope="module")
def network():
    """Random weights in float64, where rounding changes no text."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(BYTES), **size, **ids)).double().eval()


def ends_by_hand(tokens, stops):
    """How many tokens it takes until the end token or a whole text with a stop in it."""
    for size in range(1, len(tokens) + 1):
        text = BYTES.decode(tokens[:size], skip_special_tokens=True)
        if tokens[size - 1] == BYTES.eos_token_id or any(stop in text for stop in stops):
            return size
    return len(tokens)


# --- where


@given(st.lists(st.integers(3, len(BYTES) - 1), min_size=1, max_size=30), st.data())
def test_the_last_tokens_tell_what_the_whole_text_tells(tokens, data):
    """The stop is made of what stands at the end or somewhere before, so that it is often there."""
    text = BYTES.decode(tokens)
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : start + data.draw(st.integers(1, 6))]
    over = stop_criterion(BYTES, [BYTES.eos_token_id], (stop,))
    first = ends_by_hand(tokens, (stop,))
    assert [over(tokens[:size]) for size in range(1, first + 1)] == [False] * (first - 1) + [stop in text]


def test_a_stop_of_many_tokens_is_seen_when_its_last_one_comes():
    tokens = [BYTES.convert_tokens_to_ids(byte) for byte in "return"]
    assert len(tokens) == 6
    over = stop_criterion(BYTES, [BYTES.eos_token_id], ("return",))
    assert [over(tokens[:size]) for size in range(1, 7)] == [False] * 5 + [True]


def test_what_only_seems_to_be_there_in_the_last_tokens_does_not_end():
    """They begin within a character, which reads as a replacement sign, but the whole text has none."""
    tokens = [BYTES.convert_tokens_to_ids(token) for token in ("æ", "ķ", "°", "a", "b", "c")]
    assert BYTES.decode(tokens) == "数abc" and "\ufffd" in BYTES.decode(tokens[-4:])
    assert not stop_criterion(BYTES, [BYTES.eos_token_id], ("\ufffd",))(tokens)


def test_without_stops_only_the_end_token_ends():
    over, tokens = stop_criterion(BYTES, [BYTES.eos_token_id], ()), BYTES("print(1)\n#")["input_ids"]
    assert not over(tokens) and over([*tokens, BYTES.eos_token_id])


@pytest.mark.parametrize(
    "text, kept", [("a\nprint\nclass", "a"), ("a\nclass\nprint", "a"), ("\nprint", ""), ("a\nprin", None), ("", None)]
)
def test_a_text_is_cut_before_the_stop_that_comes_first(text, kept):
    assert cut_at_stop(text, STOPS) == kept


# --- a response


def test_a_record_that_was_cut_has_ended_and_keeps_its_tokens():
    tokens = BYTES("    return a\nprint(a)")["input_ids"]
    made = make_completion(Encoder(BYTES), PROMPTS[1], tokens, 0.25, STOPS)
    assert (made.text, made.ended, made.tokens) == ("    return a", True, tokens)
    assert (made.prompt, made.id, made.temperature) == ("def add(a, b):", "2", 0.25)


def test_a_stop_in_the_prompt_does_not_end_the_response():
    made = make_completion(Encoder(BYTES), Prompt("a\nprint"), BYTES("(1)")["input_ids"], stops=STOPS)
    assert (made.text, made.ended) == ("(1)", False)


@pytest.fixture(scope="module")
def free(network):
    """What is drawn where nothing stops a response."""
    return sample(network, BYTES, PROMPTS, SamplingConfig(samples=8, max_new_tokens=24))


@pytest.mark.parametrize("loop, pad", [("ours", "<pad>"), ("transformers", "<pad>"), ("transformers", "<end>")])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_stop_cuts_the_response_that_would_be_drawn_without_it(network, free, monkeypatch, loop, pad, batch_size):
    """With its tokens, whatever is sampled beside it; numbers are drawn as if nothing had stopped."""
    if loop == "transformers":
        monkeypatch.setattr("sparsepo.generation.generate.is_plain", lambda model: False)
    tokenizer, stops = copy.deepcopy(BYTES), ("e", "in", "\n")
    tokenizer.pad_token = pad
    config = SamplingConfig(samples=8, max_new_tokens=24, batch_size=batch_size)
    made = sample(network, tokenizer, PROMPTS, config, stops)
    stopped = 0
    for row, whole in zip(made, free, strict=True):
        kept = cut_at_stop(whole.text, stops)
        stopped += kept is not None
        assert row.text == (whole.text if kept is None else kept)
        assert row.ended == (whole.ended or kept is not None)
        assert row.tokens == whole.tokens[: ends_by_hand(whole.tokens, stops)]
    assert 6 < stopped < 24


@pytest.fixture
def shapes(network):
    """What the model was given, call by call: (rows, columns) of the ids."""
    seen = []
    hook = network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


def test_a_row_that_has_stopped_is_computed_no_more(network, shapes):
    """Every token but the last of a response is given to the model once."""
    made = sample(network, BYTES, PROMPTS, SamplingConfig(samples=8, max_new_tokens=24), ("e", "in", "\n"))
    assert len({len(row.tokens) for row in made}) > 5
    assert sum(rows for rows, columns in shapes if columns == 1) == sum(len(row.tokens) - 1 for row in made)


def test_the_loop_of_transformers_ends_when_all_its_rows_have_stopped(network, shapes, monkeypatch):
    """One call a token of the longest response, and three each of a prompt beside another and alone, tried before."""
    monkeypatch.setattr("sparsepo.generation.generate.is_plain", lambda model: False)
    stops = ("a", "e", "i", "n", "r", " ", "\n", "s")
    made = sample(network, BYTES, PROMPTS, SamplingConfig(samples=2, max_new_tokens=100), stops)
    assert len(shapes) == 6 + max(len(row.tokens) for row in made) < 100


def test_responses_carry_the_name_of_their_problem_and_their_temperature(network):
    made = sample(network, BYTES, PROMPTS, SamplingConfig(samples=2, temperature=0.5, max_new_tokens=2, batch_size=4))
    assert [(row.id, row.temperature, row.split) for row in made] == [
        (id, 0.5, "test") for id in ("1", "1", "2", "2", "3", "3")
    ]
