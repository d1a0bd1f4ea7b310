"""KTO on responses without a partner: a good one and a bad one, each to a prompt of its own."""

import copy
import json

import pytest
import torch
from chat_models import save_instruct_model
from transformers import AutoModelForCausalLM

from sparsepo import PreferenceConfig, PreferenceTrainer, inspect_pairs
from sparsepo.data.preference_formats import read_preferences

ROWS = [
    {"prompt": f"Hello {number}", "completion": " fine." if number % 2 else " no you", "label": bool(number % 2)}
    for number in range(8)
]


@pytest.fixture
def models(tmp_path):
    """(policy, reference, tokenizer), where the policy is another model."""
    tokenizer = save_instruct_model(tmp_path / "model")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model").double()
    policy = copy.deepcopy(reference)
    torch.manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return policy, reference, tokenizer


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "unpaired.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    section = {"source": "unpaired", "path": str(path), "split": None, "columns": {}, "package": None}
    return read_preferences(section | {"mixture": [], "max_length_difference": None, "sample": None, "seed": 0}).pairs


def logratio(policy, reference, tokenizer, prompt, response):
    """log pi - log ref of a response and its end, from the models' own logits of one sequence."""
    start = tokenizer(prompt)["input_ids"]
    ids = torch.tensor([tokenizer(prompt + response)["input_ids"] + [tokenizer.eos_token_id]])
    sums = []
    for model in (policy, reference):
        logps = model(ids).logits[0, :-1].log_softmax(-1)
        sums.append(logps.gather(1, ids[0, 1:, None])[len(start) - 1 :].sum())
    return float(sums[0] - sums[1])


@torch.no_grad()
def test_the_loss_is_that_of_each_response_to_its_own_prompt(models, pairs):
    """Mean of 1 - sigmoid(beta (r+ - z)) and 1 - sigmoid(beta (z - r-)), r = log pi/ref; z from mismatched prompts."""
    good, bad = ([row for row in ROWS if row["label"] is label] for label in (True, False))
    rows = inspect_pairs(*models[:2], pairs, "kto", {"beta": 0.5}, tokenizer=models[2])
    mismatched = []
    for number in range(4):
        other = (number + 1) % 4
        mismatched += [
            logratio(*models, good[number]["prompt"], good[other]["completion"]),
            logratio(*models, bad[number]["prompt"], bad[other]["completion"]),
        ]
    z = max(0.0, sum(mismatched) / len(mismatched))
    for number, row in enumerate(rows):
        chosen, rejected = (
            logratio(*models, each["prompt"], each["completion"]) for each in (good[number], bad[number])
        )
        wanted = torch.tensor([0.5 * (chosen - z), 0.5 * (z - rejected)]).sigmoid()
        assert row["loss"] == pytest.approx(float((1 - wanted).mean()), rel=1e-6)


def test_kto_is_trained_on_them_in_the_padded_layout(models, pairs, tmp_path, capsys):
    policy, reference, tokenizer = models
    config = PreferenceConfig(batch_size=2, num_train_epochs=1)
    trainer = PreferenceTrainer(
        copy.deepcopy(reference), reference, tokenizer, pairs, method="kto", config=config, folder=tmp_path / "work"
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert (
        "layout 'shared' does not work for LlamaForCausalLM: a rejected response has a prompt"
        in capsys.readouterr().out
    )
