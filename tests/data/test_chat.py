"""Chats as token ids: those that transformers makes of the whole chat, cut where the response begins and ends."""

import pytest
from chat_models import CHATML, GEMMA, KINDS, LLAMA_3, QWEN_3, TEMPLATES, WITH_GENERATION, make_tokenizer

from sparsepo.data.chat import ChatRenderer, has_own_template, set_chat_template
from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.records import Text
from sparsepo.runtime.errors import UserError
from sparsepo.training.sft_trainer import encode_document

CHAT = [
    {"role": "user", "content": "Hello world, how are you?"},
    {"role": "assistant", "content": "fine."},
    {"role": "user", "content": "你好，世界！"},
]
ANSWERS = ("The quick brown fox.", "  你好 ", " user\n\n", "[INST] user", "Hello <|im_start|> world")


def pair_of(tokenizer, answer, other="no", chat=CHAT, **options):
    """The record and the ids of a pair of chats."""
    builder = PromptBuilder(ChatRenderer(tokenizer, **options))
    chosen, rejected = ([*chat, {"role": "assistant", "content": text}] for text in (answer, other))
    record = builder.pair({"chosen": chosen, "rejected": rejected}, "row 1")
    encoded = encode_pairs(Encoder(tokenizer), [record], 9999, 9999, 99_999)
    return record, encoded.pairs[0]


def ids_of_whole(tokenizer, answer, chat=CHAT, **options):
    whole = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": answer}], **options)
    return list(whole["input_ids"])


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_of_a_pair_are_those_of_the_whole_chat_up_to_the_end_of_the_turn(name, kind, adds_bos):
    """What stands behind the end of the turn (a line break, in some templates the end of the text) is left out."""
    template, end = TEMPLATES[name]
    tokenizer = make_tokenizer(kind, template, adds_bos)
    for answer in ANSWERS:
        record, ids = pair_of(tokenizer, answer)
        whole = ids_of_whole(tokenizer, answer)
        assert ids.prompt + ids.chosen == whole[: len(ids.prompt + ids.chosen)], answer
        assert ids.chosen[-1] == tokenizer.convert_tokens_to_ids(end)
        assert ids.prompt == list(tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"])
        rest = tokenizer.decode(whole[len(ids.prompt + ids.chosen) :])
        assert rest.replace("</s>", "").strip() == ""
        document = encode_document(Encoder(tokenizer), Text(record.chosen, record.prompt, record.rendered), 99_999)
        assert (document.ids, document.prompt_length) == (ids.prompt + ids.chosen, len(ids.prompt))


@pytest.mark.parametrize("kind", KINDS[:5])  # transformers marks nothing that WordPiece does not know
def test_a_response_is_what_the_mask_of_transformers_marks(kind):
    tokenizer = make_tokenizer(kind, WITH_GENERATION)
    for answer in ANSWERS:
        _, ids = pair_of(tokenizer, answer, chat=CHAT[:1])
        whole = tokenizer.apply_chat_template(
            [*CHAT[:1], {"role": "assistant", "content": answer}], return_dict=True, return_assistant_tokens_mask=True
        )
        marked = [token for token, mark in zip(whole["input_ids"], whole["assistant_masks"], strict=True) if mark]
        assert ids.chosen == marked


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_would_merge_with_its_prompt_is_encoded_apart(kind):
    """A model that answers never sees the token that the tokenizer makes of both."""
    tokenizer = make_tokenizer(kind, CHATML)
    _, ids = pair_of(tokenizer, "\n\nuser")
    whole = ids_of_whole(tokenizer, "\n\nuser")
    assert ids.prompt == list(tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"])
    assert tokenizer.decode(ids.prompt + ids.chosen) == tokenizer.decode(whole).rstrip()


def test_a_system_turn_keeps_its_role_and_a_template_that_has_none_says_so():
    system = [{"role": "system", "content": "Be brief."}, *CHAT]
    record, _ = pair_of(make_tokenizer(KINDS[0], CHATML), "yes", chat=system)
    assert record.prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    with pytest.raises(UserError, match="row 1: the chat template does not take these messages: System role not"):
        pair_of(make_tokenizer(KINDS[0], GEMMA), "yes", chat=system)


def test_thinking_is_switched_off_in_the_prompt_and_the_response_alike():
    tokenizer = make_tokenizer(KINDS[0], QWEN_3)
    on, _ = pair_of(tokenizer, "yes")
    assert on.prompt.endswith("assistant\n") and on.chosen == "<think>\n\n</think>\n\nyes"
    off, ids = pair_of(tokenizer, "yes", template_options={"enable_thinking": False})
    assert off.prompt.endswith("assistant\n<think>\n\n</think>\n\n") and off.chosen == "yes"
    assert ids.prompt + ids.chosen == ids_of_whole(tokenizer, "yes", enable_thinking=False)[:-1]


def test_tools_reasoning_and_calls_reach_the_template_and_what_it_does_not_read_is_named():
    tokenizer = make_tokenizer(KINDS[0], QWEN_3)
    renderer = ChatRenderer(tokenizer)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "so", "mood": "good"}
    other = {"role": "assistant", "content": "no"}
    row = {"prompt": CHAT[:1], "chosen": [answer], "rejected": [other], "tools": [call]}
    record = PromptBuilder(renderer).pair(row, "row 1")
    assert '"name": "add"' in record.prompt
    assert record.chosen.startswith("<think>\nso\n</think>\n\n<tool_call>") and '"a": 1' in record.chosen
    assert renderer.unread == {"mood": "row 1"}
    assert record.messages == CHAT[:1]


def test_without_a_prompt_of_its_own_a_pair_has_what_both_chats_begin_with():
    tokenizer = make_tokenizer(KINDS[0], LLAMA_3)
    explicit = {"prompt": CHAT, "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}
    implicit = {
        side: [*CHAT, {"role": "assistant", "content": text}] for side, text in (("chosen", "a"), ("rejected", "b"))
    }
    with_text = implicit | {"prompt": CHAT[0]["content"]}
    builder = PromptBuilder(ChatRenderer(tokenizer))
    assert builder.pair(explicit, "x") == builder.pair(implicit, "x") == builder.pair(with_text, "x")
    assert builder.pair(implicit | {"rejected": implicit["rejected"][1:]}, "x") is None


def test_plain_prompts_can_be_turns_of_the_user():
    builder = PromptBuilder(ChatRenderer(make_tokenizer(KINDS[0], CHATML)), True, "Be brief.")
    prompt = builder.prompt("2+2?", "x")
    assert prompt.prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
    pair = builder.settle(builder.pair({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, "x"), "x")
    assert (pair.prompt, pair.chosen, pair.rejected, pair.rendered) == (prompt.prompt, "4", "5", True)


def test_a_template_whose_prompt_is_not_the_start_of_the_chat_is_refused_with_the_remedy():
    template = CHATML.replace("assistant\\n' -}}{%- endif", "assistant\\n<think>' -}}{%- endif")
    with pytest.raises(UserError, match="set model.add_generation_prompt: false"):
        pair_of(make_tokenizer(KINDS[0], template), "yes")
    record, _ = pair_of(make_tokenizer(KINDS[0], template), "yes", add_generation_prompt=False)
    assert record.chosen == "<|im_start|>assistant\nyes"


def test_a_base_model_and_chats_are_an_error_that_names_the_choices(tmp_path):
    tokenizer = make_tokenizer(KINDS[0])
    with pytest.raises(UserError, match="no chat template; set model.chat_template to 'hh' .* 'none' .* a jinja file"):
        pair_of(tokenizer, "yes")
    hh, _ = pair_of(set_chat_template(make_tokenizer(KINDS[0]), "hh"), " yes ")
    assert hh.prompt == "\n\nHuman: Hello world, how are you?\n\nAssistant: fine.\n\nHuman: 你好，世界！\n\nAssistant:"
    assert (hh.chosen, hh.rendered) == (" yes", False)
    bare, _ = pair_of(set_chat_template(make_tokenizer(KINDS[0]), "none"), " yes ", chat=CHAT[:1])
    assert (bare.prompt, bare.chosen) == ("Hello world, how are you?", "\n\n yes ")
    (tmp_path / "own.jinja").write_text(CHATML)
    own = set_chat_template(tokenizer, str(tmp_path / "own.jinja"))
    assert has_own_template(own) and pair_of(own, "yes")[0].rendered
    with pytest.raises(UserError, match="no such file"):
        set_chat_template(tokenizer, "missing.jinja")
