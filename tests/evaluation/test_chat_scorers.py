"""Scores of chats against transformers itself: the reward model's own template, one text at a time, without padding."""

from pathlib import Path

import pytest
import torch
from chat_models import CHATML, GEMMA, LLAMA_3, MISTRAL, ZEPHYR, make_tokenizer
from transformers import GPT2Config, GPT2ForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from sparsepo.config.scorers import ClassifierScorer, RewardModelScorer, VaderScorer
from sparsepo.data.chat import plain_text, scored_prompt
from sparsepo.data.records import Completion, Preference, Prompt
from sparsepo.data.sources import label_pair
from sparsepo.evaluation import judges
from sparsepo.evaluation.judges import ScoreJudge, build_question, prefer_greater, round_robin
from sparsepo.evaluation.scorers import build_scorer, cut_notes
from sparsepo.evaluation.win_rate import win_rate
from sparsepo.runtime.errors import UserError

KIND = "byte-level BPE"
LLAMA, GPT2 = "llama", "gpt2"
PROMPTS = [
    [{"role": "user", "content": "Hello world"}],
    [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "I am fine."},
        {"role": "user", "content": "The quick brown fox is fine, 你好. Hello?"},
    ],
    [{"role": "user", "content": "a"}],
]
RESPONSES = [" I am.", "The fox is quick and fine, how are you? Hello world.", "你好 "]


def reward_model(folder: Path, kind: str = LLAMA, template: str | None = CHATML, positions: int = 400, labels: int = 1):
    """(model, tokenizer, folder) of a tiny one; its tokenizer puts <s> in front of texts."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(KIND, template, adds_bos=True)
    tokenizer.model_max_length = positions
    size = {"vocab_size": len(tokenizer), "num_labels": labels, "initializer_range": 0.5}
    if kind == LLAMA:
        shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForSequenceClassification(LlamaConfig(max_position_embeddings=positions, **size, **shape))
    else:
        shape = {"n_embd": 16, "n_layer": 1, "n_head": 2}
        model = GPT2ForSequenceClassification(GPT2Config(n_positions=positions, **size, **shape))
    assert model.config.pad_token_id is None
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer, str(folder)


def scorer_of(folder: str, batch_size: int = 2):
    return build_scorer(RewardModelScorer(kind="reward_model", model=folder, batch_size=batch_size))


def reward(model, ids: list[int]) -> float:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits.item()


def chat_ids(tokenizer, prompt: list[dict], response: str) -> list[int]:
    chat = [*prompt, {"role": "assistant", "content": response.strip()}]
    return tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]


@pytest.mark.parametrize("kind", [LLAMA, GPT2])
@pytest.mark.parametrize("template", [CHATML, LLAMA_3, GEMMA, MISTRAL, ZEPHYR])
def test_a_chat_is_scored_as_the_reward_models_own_template_renders_it(tmp_path, kind, template):
    """Mistral's template ends with the end token, which is the pad token of this tokenizer too."""
    model, tokenizer, folder = reward_model(tmp_path, kind, template)
    expected = [reward(model, chat_ids(tokenizer, *texts)) for texts in zip(PROMPTS, RESPONSES, strict=True)]
    for batch_size in (1, 2, 8):
        scorer = scorer_of(folder, batch_size)
        assert scorer(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-4)
        assert cut_notes(scorer) == []
    assert len({round(value, 2) for value in expected}) == 3


@pytest.mark.parametrize("pad", [0, 2, -1])
def test_the_token_that_pads_is_the_one_that_the_reward_models_config_names(tmp_path, pad):
    """A model finds the last token of a text by it; some configs name one that is none."""
    model, tokenizer, _ = reward_model(tmp_path)
    model.config.pad_token_id = pad
    model.save_pretrained(tmp_path)
    expected = [reward(model, chat_ids(tokenizer, *texts)) for texts in zip(PROMPTS, RESPONSES, strict=True)]
    assert scorer_of(str(tmp_path), 3)(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-4)


def test_the_tokenizer_of_a_reward_model_needs_no_end_token(tmp_path):
    model, tokenizer, folder = reward_model(tmp_path, template=CHATML.replace("<|im_end|>", ""))
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    expected = [reward(model, chat_ids(tokenizer, *texts)) for texts in zip(PROMPTS, RESPONSES, strict=True)]
    assert scorer_of(folder)(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-4)


def test_plain_prompts_are_scored_as_joined_texts_with_the_tokens_that_the_tokenizer_adds(tmp_path):
    model, tokenizer, folder = reward_model(tmp_path)
    expected = [reward(model, tokenizer(text)["input_ids"]) for text in ("Hello world.", "The fox is")]
    assert scorer_of(folder)(["Hello", "The fox"], [" world.", " is"]) == pytest.approx(expected, abs=1e-4)


def test_without_a_template_a_chat_is_scored_as_its_plain_text(tmp_path):
    model, tokenizer, folder = reward_model(tmp_path, template=None)
    text = "User: How are you?\n\nAssistant: I am fine.\n\nUser: The quick brown fox is fine, 你好. Hello?"
    ids = tokenizer(f"{text}\n\nAssistant: {RESPONSES[1]}")["input_ids"]
    assert scorer_of(folder)(PROMPTS[1:2], RESPONSES[1:2]) == pytest.approx([reward(model, ids)], abs=1e-4)


def test_a_classifier_reads_plain_text_also_where_its_tokenizer_has_a_template(tmp_path):
    model, tokenizer, folder = reward_model(tmp_path, labels=2)
    scorer = build_scorer(ClassifierScorer(kind="classifier", model=folder, label="LABEL_1", batch_size=2))
    ids = tokenizer("User: Hello world\n\nAssistant: I am.")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits.softmax(-1)[0, 1].item()
    assert scorer(PROMPTS[:1], RESPONSES[:1]) == pytest.approx([expected], abs=1e-5)


def test_messages_that_the_template_does_not_take_are_an_error_with_the_model(tmp_path):
    folder = reward_model(tmp_path, template=GEMMA)[2]
    with pytest.raises(UserError, match=f"scorer model '{tmp_path}': the chat template does not take .*System role"):
        scorer_of(folder)([[{"role": "system", "content": "Be brief."}, *PROMPTS[0]]], ["x"])


# --- texts that are too long


@pytest.mark.parametrize("template", [LLAMA_3, None])
def test_a_text_beyond_the_limit_loses_its_beginning_but_not_the_first_token_and_is_counted(tmp_path, template):
    model, tokenizer, folder = reward_model(tmp_path, template=template, positions=60)
    long = [{"role": "user", "content": "Hello world, how are you? " * 20}]
    whole = plain_text([*long, {"role": "assistant", "content": "I am."}])
    ids = chat_ids(tokenizer, long, "I am.") if template else tokenizer(whole)["input_ids"]
    first = next(place for place, token in enumerate(ids) if token not in tokenizer.all_special_ids)
    assert ids[0] == tokenizer.bos_token_id and len(ids) > 60
    expected = [reward(model, ids[:first] + ids[len(ids) - 60 + first :])]
    scorer = scorer_of(folder)
    found = scorer([long, PROMPTS[2]], ["I am.", "x"])
    assert found[:1] == pytest.approx(expected, abs=1e-4)
    (note,) = cut_notes(scorer)
    assert note == (
        f"scorer model '{tmp_path}': 1 of 2 texts had more than 60 tokens and were scored without their beginning"
    )
    assert cut_notes(scorer) == []  # it was said


def test_responses_that_do_not_fit_alone_are_counted_apart(tmp_path, capsys):
    folder = reward_model(tmp_path, positions=60)[2]
    scorer = scorer_of(folder)
    for prompt in (PROMPTS[0], "Hello"):
        scorer([prompt, prompt, prompt], [" Hello." * 60, " x", "x y " * 3])
        (note,) = cut_notes(scorer)
        assert "1 of 3 texts had more than 60 tokens" in note and note.endswith("in 1 the response alone was too long")
        assert note in capsys.readouterr().out
    scorer(["Hello " * 60], ["Hello."])
    assert "response alone" not in cut_notes(scorer)[0]


def test_a_judge_says_what_its_scorer_cut(tmp_path):
    judge = ScoreJudge(scorer_of(reward_model(tmp_path, positions=60)[2]), prefer_greater)
    judge(["Hello " * 60] * 2, ["a", "b"], ["b", "c"])
    (note,) = cut_notes(judge)
    assert "3 of 3 texts" in note  # "b" is scored once


# --- what others read of a chat


def test_scorers_take_the_chat_of_a_record_and_not_what_the_policy_reads():
    chat = {"messages": PROMPTS[0], "rendered": True}
    records = [
        Prompt("<s>Hello", **chat),
        Completion("<s>Hello", "x", [1], True, **chat),
        Preference("<s>Hello", "x", "y", **chat),
    ]
    assert [scored_prompt(record) for record in records] == [PROMPTS[0]] * 3
    assert scored_prompt(Prompt("a text")) == "a text"


def test_documents_that_a_scorer_is_fitted_to_are_the_texts_that_it_scores():
    documents = label_pair(Preference("<|im_start|>user", "\nyes", "no", messages=PROMPTS[0], rendered=True))
    assert [(document.text, document.label) for document in documents] == [
        ("User: Hello world\n\nAssistant: yes", 1),
        ("User: Hello world\n\nAssistant: no", 0),
    ]
    assert [document.text for document in label_pair(Preference("a ", " b", "c"))] == ["a  b", "a c"]


def test_vader_reads_what_was_said():
    scorer = build_scorer(VaderScorer(kind="vader"))
    assert scorer([PROMPTS[2]], [" good "]) == scorer(["User: a\n\nAssistant:"], [" good"])


def test_a_message_that_calls_tools_is_shown_with_the_call():
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "größe"}]}
    assert plain_text([call]) == 'Assistant: {"content": null, "tool_calls": [{"name": "größe"}]}'


def test_a_chat_model_is_asked_about_the_plain_text_of_a_chat():
    question = build_question("dialogue", PROMPTS[0], "a", "b")
    assert "<context>\nUser: Hello world\n</context>" in question


def test_an_nli_model_reads_the_plain_text_of_a_chat(tmp_path, monkeypatch):
    from sparsepo.evaluation.nli import Entailment

    seen = []
    entailment = object.__new__(Entailment)
    monkeypatch.setattr(Entailment, "scores", lambda self, premises, hypotheses: seen.extend(premises) or [0.5])
    entailment([PROMPTS[0]], ["x"])
    assert seen == ["User: Hello world"]


def test_responses_to_equal_chats_meet_in_a_tournament_and_in_a_win_rate():
    judge = judges.ScoreJudge(lambda prompts, texts: [float(len(text)) for text in texts], prefer_greater)
    prompts = [PROMPTS[0], [dict(PROMPTS[0][0])], PROMPTS[1]]
    assert round_robin(judge, prompts, ["a", "long", "b"]).wins == [0.0, 1.0, 0.5]
    assert win_rate(judge, prompts[:2], ["a", "long"], ["xx", "xx"], [0, 1]).measurement["values"] == [0.0, 1.0]
