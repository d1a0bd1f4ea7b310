"""The trainers as a library, given chats: they train on the ids that the chat template makes."""

import copy

import pytest
from chat_models import save_instruct_model
from transformers import AutoModelForCausalLM

from sparsepo import PreferenceConfig, PreferenceTrainer, inspect_pairs
from sparsepo.runtime.errors import UserError

PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"Hello {number}"}],
        "chosen": [{"role": "assistant", "content": "fine."}],
        "rejected": "no",
    }
    for number in range(4)
]


@pytest.fixture
def instruct(tmp_path):
    """(model, tokenizer) of an instruct-like model."""
    tokenizer = save_instruct_model(tmp_path / "model")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "model"), tokenizer


def ids_by_hand(tokenizer, pair, answer):
    prompt = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*pair["prompt"], {"role": "assistant", "content": answer}])["input_ids"]
    return list(prompt), list(whole[len(prompt) : -1])  # without the line break behind the end of the turn


def test_a_policy_is_trained_on_the_ids_of_the_template(instruct, tmp_path):
    model, tokenizer = instruct
    config = PreferenceConfig(batch_size=2, num_train_epochs=1)
    trainer = PreferenceTrainer(
        copy.deepcopy(model), model, tokenizer, PAIRS, method="dpo", config=config, folder=tmp_path / "work"
    )
    for pair, given in zip(trainer.data_collator.maker.pairs, PAIRS, strict=True):
        prompt, chosen = ids_by_hand(tokenizer, given, "fine.")
        assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, chosen, ids_by_hand(tokenizer, given, "no")[1])
    trainer.train()
    trainer.save(tmp_path / "policy")
    assert (tmp_path / "policy" / "chat_template.jinja").read_text() == tokenizer.chat_template


def test_the_tokens_of_chats_can_be_inspected(instruct):
    model, tokenizer = instruct
    (first, *_) = inspect_pairs(copy.deepcopy(model), model, PAIRS, "dpo", tokenizer=tokenizer)
    assert len(first["chosen"]["logps"]) == len(ids_by_hand(tokenizer, PAIRS[0], "fine.")[1])


def test_chats_without_a_template_are_refused_with_the_choices(instruct, tmp_path):
    model, tokenizer = instruct
    tokenizer.chat_template = None
    with pytest.raises(
        UserError, match=r"pairs\[0\]: the data are chats, and the model's tokenizer has no chat template"
    ):
        PreferenceTrainer(copy.deepcopy(model), model, tokenizer, PAIRS, method="dpo", folder=tmp_path / "work")
