"""Token ids of prompts and responses, and dropping what cannot be trained on."""

from functools import cache
from types import SimpleNamespace

import pytest
from chat_models import CHATML, KINDS, LOSSLESS, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo.data.encoding import Encoder, TokenPair, encode_pairs
from sparsepo.data.records import Preference, Text
from sparsepo.models.loading import train_tokenizer
from sparsepo.training.sft_trainer import encode_document

WORDS = ["a", "b", "c", "d", "e", "f"]


@cache
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], "word", 50)


def ids(text):
    return [tokenizer().convert_tokens_to_ids(word) for word in text.split()]


class Fake:
    """A tokenizer that puts 1 in front and 2 behind, as some do; each letter is its place in the alphabet plus 10."""

    eos_token_id = 2

    def __init__(self, front=(1,), behind=(2,)):
        self.front, self.behind = list(front), list(behind)

    def __call__(self, text, add_special_tokens=True):
        letters = [ord(letter) - ord("a") + 10 for letter in text]
        return {"input_ids": self.front + letters + self.behind if add_special_tokens else letters}


def test_a_prompt_keeps_what_stands_in_front_and_loses_the_end_behind():
    assert Encoder(Fake()).encode_prompt("ab") == [1, 10, 11]
    assert Encoder(Fake(behind=())).encode_prompt("ab") == [1, 10, 11]
    assert Encoder(Fake(front=(), behind=(2, 2))).encode_prompt("") == []


def test_a_response_has_the_end_token_only_if_it_has_ended_and_nothing_in_front():
    assert Encoder(Fake()).encode_response("ab", "cd", ended=True) == [12, 13, 2]
    assert Encoder(Fake()).encode_response("ab", "cd", ended=False) == [12, 13]


def record(prompt="a b", chosen="c d", rejected="e", **rest):
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, **rest)


def test_a_pair_is_prompt_and_two_responses_tokenised_apart():
    end = tokenizer().eos_token_id
    encoded = encode_pairs(Encoder(tokenizer()), [record(), record(chosen_ended=False, rejected_ended=False)], 8, 8, 99)
    assert encoded.pairs == [
        TokenPair(ids("a b"), ids("c d") + [end], ids("e") + [end]),
        TokenPair(ids("a b"), ids("c d"), ids("e")),
    ]
    assert (encoded.indices, encoded.dropped) == ([0, 1], {})


def test_a_response_is_cut_at_its_limit_and_then_has_no_end():
    encoded = encode_pairs(Encoder(tokenizer()), [record(chosen="c d e f a b", rejected="c d")], 8, 3, 99)
    assert encoded.pairs[0].chosen == ids("c d e")
    assert encoded.pairs[0].rejected == ids("c d") + [tokenizer().eos_token_id]


def test_a_response_ends_where_the_context_of_the_model_does():
    encoded = encode_pairs(Encoder(tokenizer()), [record(chosen="c d e f", rejected="c")], 8, 8, context=5)
    assert encoded.pairs == [TokenPair(ids("a b"), ids("c d e"), ids("c") + [tokenizer().eos_token_id])]


def test_a_prompt_that_leaves_no_room_in_the_context_is_dropped():
    encoded = encode_pairs(
        Encoder(tokenizer()), [record(prompt="a b c d"), record(prompt="a b c d e")], 8, 8, context=4
    )
    assert (encoded.pairs, encoded.dropped) == ([], {"prompt is longer than 3 tokens": 2})


DROPPED = [
    (record(prompt=""), "prompt is empty"),
    (record(prompt="a b c d e"), "prompt is longer than 4 tokens"),
    (record(chosen=" \n"), "chosen is empty"),
    (record(rejected=""), "rejected is empty"),
    (record(chosen="c d", rejected="c d"), "responses are equal after tokenisation and truncation"),
    (record(chosen="c  d", rejected="c d "), "responses are equal after tokenisation and truncation"),
    (record(chosen="c d e f", rejected="c d e a"), "responses are equal after tokenisation and truncation"),
]


@pytest.mark.parametrize("bad, reason", DROPPED)
def test_a_pair_that_cannot_train_is_dropped_for_a_reason(bad, reason):
    encoded = encode_pairs(Encoder(tokenizer()), [bad], 4, 3, 99)
    assert (encoded.pairs, encoded.indices, encoded.dropped) == ([], [], {reason: 1})


def test_reasons_are_counted_and_the_places_of_the_rest_are_kept():
    records = [record(), record(prompt=""), record(prompt="c"), record(rejected=""), record(prompt="")]
    encoded = encode_pairs(Encoder(tokenizer()), records, 4, 3, 99)
    assert encoded.indices == [0, 2]
    assert [pair.prompt for pair in encoded.pairs] == [ids("a b"), ids("c")]
    assert encoded.dropped == {"prompt is empty": 2, "rejected is empty": 1}


def test_a_prompt_and_responses_of_exactly_the_limits_are_kept_whole():
    encoded = encode_pairs(Encoder(tokenizer()), [record(prompt="a b c d", chosen="a b", rejected="b a")], 4, 3, 7)
    assert len(encoded.pairs[0].prompt) == 4  # and 4 + 3 fill the context
    assert encoded.pairs[0].chosen[-1] == encoded.pairs[0].rejected[-1] == tokenizer().eos_token_id


# --- prompt and response are the text, whatever the tokenizer

ANY_TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\tHello你好世")), max_size=12
)


@pytest.mark.parametrize("kind", KINDS[:5])
@settings(deadline=None)
@given(prompt=ANY_TEXT, response=ANY_TEXT)
def test_ids_of_prompt_and_response_decode_to_both_texts(kind, prompt, response):
    """As far as the tokenizer can: where its ids of the whole text decode to another one, then to that.

    Some change a text at a special token in it, as <unk>.
    """
    tokenizer = make_tokenizer(kind)
    encoder = Encoder(tokenizer)
    ids = encoder.encode_prompt(prompt) + encoder.encode_response(prompt, response, ended=False)
    whole = tokenizer.decode(tokenizer(prompt + response)["input_ids"])
    assert kind not in LOSSLESS or whole == prompt + response or "<" in prompt + response
    assert tokenizer.decode(ids) in (prompt + response, whole)


def test_a_token_across_the_boundary_is_counted_and_the_response_is_encoded_apart():
    encoder = Encoder(make_tokenizer("byte-level BPE"))
    records = [
        record(prompt="Hel", chosen="lo", rejected="p"),
        record(prompt="Hello", chosen=" world", rejected=" you"),
    ]
    encoded = encode_pairs(encoder, records, 99, 99, 99)
    assert encoded.num_merged == 1
    for made, pair in zip(encoded.pairs, records, strict=True):
        assert encoder.tokenizer.decode(made.prompt + made.chosen) == pair.prompt + pair.chosen + "</s>"


def test_no_dummy_prefix_stands_before_a_response():
    encoder = Encoder(make_tokenizer("SentencePiece of Llama 2"))
    assert (
        encoder.tokenizer.decode(encoder.encode_prompt("Q:\n") + encoder.encode_response("Q:\n", "Hello", False))
        == "Q:\nHello"
    )


def test_a_text_that_begins_with_bos_gets_no_second_one_and_documents_begin_as_prompts():
    encoder = Encoder(make_tokenizer("byte-level BPE", adds_bos=True))
    bos = encoder.tokenizer.bos_token_id
    plain, given_bos = encoder.encode_prompt("Hello"), encoder.encode_prompt("<s>Hello")
    assert plain == given_bos and plain.count(bos) == 1
    document = encode_document(encoder, Text("Hello"), 99)
    assert document.ids[0] == bos and document.first_target == 1
    assert encoder.encode_prompt("<s>Hello", rendered=True) == plain
    assert bos not in encoder.encode_prompt("Hello", rendered=True)


def test_an_end_token_of_the_user_stays_in_a_prompt_and_is_not_doubled_behind_a_response():
    encoder = Encoder(make_tokenizer("byte-level BPE"))
    end = encoder.tokenizer.eos_token_id
    assert encoder.encode_prompt("Hello</s>")[-1] == end and encoder.encode_prompt("a</s>b").count(end) == 1
    assert encoder.encode_response("Q", "Hello</s>", ended=True).count(end) == 1


def test_a_response_ends_with_any_end_token_of_the_model():
    tokenizer = make_tokenizer("byte-level BPE", CHATML)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    encoder = Encoder(tokenizer, SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[end])))
    named = {tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<|end|>", "<|im_end|>")}
    assert encoder.end_ids == named
    assert encoder.encode_response("Q", "A<|end|>", ended=True)[-1] == end


def test_sampled_responses_keep_the_tokens_that_were_drawn():
    encoder = Encoder(make_tokenizer("byte-level BPE"))
    drawn = [encoder.tokenizer.convert_tokens_to_ids(letter) for letter in "Hello"]
    assert encoder.encode_response("Q", "Hello", False) != drawn
    encoded = encode_pairs(encoder, [record(chosen="Hello", chosen_ids=drawn)], 99, 99, 99)
    assert encoded.pairs[0].chosen == drawn
