"""Token ids of pairs beside those that TRL's DPOTrainer makes of the same data; each difference has its reason."""

import importlib.util
import warnings

import pytest
from chat_models import TEMPLATES, save_instruct_model
from datasets import Dataset
from transformers import AutoModelForCausalLM

from sparsepo.data.chat import ChatRenderer
from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.prompts import PromptBuilder

pytestmark = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl, of the extra `bench`, is missing")

CHATS = [
    {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": good}],
        "rejected": [{"role": "assistant", "content": bad}],
    }
    for question, good, bad in [
        ("Hello, how are you?", "fine.", "no"),
        ("你好", " 再见 ", "The quick\nfox"),
        ("a", "b", "c d"),
    ]
]
TEXTS = [
    {"prompt": "Hello world,", "chosen": " how are you?", "rejected": " no"},
    {"prompt": "The quick\n", "chosen": "brown fox", "rejected": "你好"},
]


def theirs(folder, tokenizer, rows):
    from trl import DPOConfig, DPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = DPOConfig(output_dir=str(folder / "trl"), report_to="none", use_cpu=True, bf16=False, max_length=None)
        model = AutoModelForCausalLM.from_pretrained(folder)
        made = DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return [[row[f"{part}_ids"] for part in ("prompt", "chosen", "rejected")] for row in made.train_dataset]


def ours(tokenizer, rows):
    builder = PromptBuilder(ChatRenderer(tokenizer))
    records = [builder.pair(row, "row") for row in rows]
    return [
        [pair.prompt, pair.chosen, pair.rejected]
        for pair in encode_pairs(Encoder(tokenizer), records, 999, 999, 999).pairs
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_chats_have_the_ids_of_trl_up_to_the_end_of_the_turn(tmp_path, name):
    """TRL also trains on what the template puts behind the end of the turn, which no sampled response has."""
    tokenizer = save_instruct_model(tmp_path, *TEMPLATES[name])
    for mine, other in zip(ours(tokenizer, CHATS), theirs(tmp_path, tokenizer, CHATS), strict=True):
        assert mine[0] == other[0]
        for ids, with_rest in zip(mine[1:], other[1:], strict=True):
            assert ids == with_rest[: len(ids)]
            assert tokenizer.decode(with_rest[len(ids) :], skip_special_tokens=True).strip() == ""


def test_texts_have_the_ids_of_trl(tmp_path):
    tokenizer = save_instruct_model(tmp_path)
    assert ours(tokenizer, TEXTS) == theirs(tmp_path, tokenizer, TEXTS)


def test_where_prompt_and_response_merge_trl_leaves_out_the_end_of_the_prompt_and_we_keep_it(tmp_path):
    tokenizer = save_instruct_model(tmp_path)
    rows = [{"prompt": "Hel", "chosen": "lo", "rejected": "p"}]
    (mine,), (other,) = ours(tokenizer, rows), theirs(tmp_path, tokenizer, rows)
    assert tokenizer.decode(mine[0] + mine[1]) == "Hello</s>" and mine[0] == tokenizer("Hel")["input_ids"]
    assert len(other[0]) < len(mine[0])
