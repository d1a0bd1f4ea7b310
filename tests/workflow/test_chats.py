"""The whole workflow with an instruct-like model: a chat template and two end tokens."""

import json

import pytest
from chat_models import CHATML, save_instruct_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """\
name: chats
tasks:
  pairs:
    model: &model {source: folder, path: model}
    data: {source: preferences, prompts: {validation: 4, test: 4}}
    sft: &sft {num_train_epochs: 1, batch_size: 4, learning_rate: 1e-2}
    preferences: {source: pairs, path: pairs.jsonl}
    methods: &methods {dpo: {beta: "0.1"}, sparsepo_common: {beta: "0.1"}}
    training: &training {num_train_epochs: 1, batch_size: 4, frontier_every: 0}
    sampling: &sampling {samples: 2, max_new_tokens: 12}
    evaluation:
      scorer: {kind: vader}
      token_pairs: 4
      benchmarks: {local: [{path: questions.yaml}], limit: 4}
  generated:
    model: {source: folder, path: model, wrap_prompts: true, system_message: Be brief.}
    data: {source: texts, path: texts.jsonl, texts: 16, prompts: {train: 12, validation: 4, test: 4}}
    sft: *sft
    preferences:
      source: generated
      scorer: {kind: reward_model, model: reward}
      sampling: {samples: 2, max_new_tokens: 12}
    methods: *methods
    training: *training
    sampling: *sampling
    evaluation: {scorer: {kind: reward_model, model: reward}, token_pairs: 4}
"""
WORDS = ("good", "bad", "fine", "great", "awful", "nice")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_instruct_model_runs_from_chats_to_tables(unfinished, snakemake):
    folder, task = unfinished, unfinished / "results" / "pairs"
    tokenizer = save_instruct_model(folder / "model")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=2, **sizes)
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    chats = [
        {
            "prompt": [{"role": "user", "content": f"Hello {number}, how are you?"}],
            "chosen": [{"role": "assistant", "content": f"I am {WORDS[number % 6]}."}],
            "rejected": [{"role": "assistant", "content": "你好 "}],
        }
        for number in range(20)
    ]
    long = [{"role": "user", "content": "Hello " * 300}]
    rows = [*chats, chats[0] | {"prompt": long}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [{"text": f"The {one} film was {two} and {number} times {three}."} for number, one in enumerate(WORDS * 8)
             for two, three in [(WORDS[number % 5], WORDS[number % 4])]]  # fmt: skip
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    questions = [{"question": f"{number}?", "choices": ["good", "bad"], "answer": 0} for number in range(4)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "questions.yaml").write_text(
        "task: questions\ndataset_path: json\ndataset_kwargs:\n  data_files: {test: questions.jsonl}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: choices\n'
        "doc_to_target: answer\nmetric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    (folder / "chats.yaml").write_text(CONFIG)
    done = snakemake(folder, "--cores", "2", "--configfile", "chats.yaml")
    assert done.returncode == 0, done.stdout

    assert "prompt is longer than" in (folder / "logs/pairs/prepare_data.log").read_text()
    template = {"tokenize": True, "add_generation_prompt": True}
    for prompt in lines(task / "prompts/test.jsonl"):
        ids = tokenizer.apply_chat_template(prompt["messages"], **template)["input_ids"]
        assert tokenizer(prompt["prompt"], add_special_tokens=False)["input_ids"] == ids
    ends = set(tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"]))
    for name in ("pairs", "generated"):
        for run in ("dpo", "sparsepo_common"):
            saved = AutoTokenizer.from_pretrained(folder / f"results/{name}/runs/{run}/beta~0.1/seed~0")
            assert saved.chat_template == CHATML
            for row in lines(folder / f"results/{name}/samples/{run}/beta~0.1/seed~0.jsonl"):
                assert row["ended"] == (row["tokens"][-1] in ends) and not ends & set(row["tokens"][:-1])
    made = lines(folder / "results/generated/preferences/train.jsonl")
    assert made and all(
        pair["chosen_ids"] and pair["prompt"].startswith("<|im_start|>system\nBe brief.") for pair in made
    )
    assert (folder / "results/tables/pairs.md").exists() and (folder / "results/tables/generated.md").exists()
