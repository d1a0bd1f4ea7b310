"""Supervised fine-tuning: the loss by hand, what is cut, what is left out and what is refused."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from sparsepo.config.training import SftConfig
from sparsepo.data.encoding import Encoder
from sparsepo.data.records import Text
from sparsepo.models import adapters
from sparsepo.models.loading import disable_dropout
from sparsepo.runtime.errors import UserError
from sparsepo.training.sft_trainer import IGNORED_LABEL, Document, DocumentBatches, SFTTrainer, encode_document

DOCUMENTS = [
    Text("w01 w02 w03 w04 w05"),
    Text("w06 w07", prompt="w08 w09 w10"),
    Text("w11 w12 w13 w14 w15 w16 w17", prompt="w18"),
    Text("w19", prompt="w20 w21"),
]


def fine_tune(toy, folder, documents=DOCUMENTS, architecture="gpt2", **changed):
    given = {"batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 0, "max_steps": 1} | changed
    model = disable_dropout(toy.model(architecture))
    return SFTTrainer(model, toy.tokenizer, documents, config=SftConfig(**given), folder=folder)


def loss_by_hand(toy, model, limit=99):
    """Mean over every learned token of all documents of -log p, one document at a time and without padding."""
    nats, count = 0.0, 0
    for document in DOCUMENTS:
        prompt, text = (toy.tokenizer.convert_tokens_to_ids(part.split()) for part in (document.prompt, document.text))
        ids = (prompt + text + [toy.tokenizer.eos_token_id])[:limit]
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        learned = range(max(len(prompt), 1), len(ids))  # nothing predicts the first token of a text without a prompt
        nats -= sum(float(logp[at - 1, ids[at]]) for at in learned)
        count += len(learned)
    return nats / count


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_bigcode", "llama"])
@pytest.mark.parametrize("micro", [None, 2, 1])
def test_the_loss_is_the_mean_over_response_tokens_and_the_end(toy, tmp_path, architecture, micro):
    trainer = fine_tune(toy, tmp_path, architecture=architecture, micro_batch_size=micro)
    expected = loss_by_hand(toy, trainer.model)
    trainer.train()
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("limit", [3, 4, 6])
def test_a_document_is_cut_at_max_tokens(toy, tmp_path, limit):
    """At 3 one document has nothing left but its prompt and is not learned from."""
    trainer = fine_tune(toy, tmp_path, max_tokens=limit, batch_size=3 if limit == 3 else 4)
    expected = loss_by_hand(toy, trainer.model, limit)
    trainer.train()
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_context_of_the_model_cuts_as_max_tokens_does(toy, tmp_path, capsys):
    long = Text(" ".join(["w01"] * 100))
    trainer = fine_tune(toy, tmp_path, [long] * 4, max_tokens=512)
    assert "4 of 4 documents have tokens to learn within 48 tokens" in capsys.readouterr().out
    trainer.train()
    assert len(toy.rows(tmp_path)) == 1


def test_a_document_becomes_its_ids_with_the_end_and_the_length_of_its_prompt(toy):
    ids = toy.tokenizer.convert_tokens_to_ids
    end = toy.tokenizer.eos_token_id
    assert encode_document(Encoder(toy.tokenizer), DOCUMENTS[1], 99) == (ids("w08 w09 w10 w06 w07".split()) + [end], 3)
    assert encode_document(Encoder(toy.tokenizer), DOCUMENTS[1], 4) == (ids("w08 w09 w10 w06".split()), 3)
    assert encode_document(Encoder(toy.tokenizer), DOCUMENTS[1], 3) is None
    assert encode_document(Encoder(toy.tokenizer), Text("w01"), 9) == ([*ids(["w01"]), end], 0)
    assert encode_document(Encoder(toy.tokenizer), Text(""), 9) is None


def test_a_batch_is_the_one_worked_out_by_hand():
    batch = DocumentBatches(pad_id=0, size=None).collate([Document([5, 6, 7, 0], 2), Document([8, 0], 0)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    ignored = IGNORED_LABEL
    assert batch.labels.tolist() == [[ignored, ignored, 7, 0], [ignored, 0, ignored, ignored]]
    assert (batch.num_tokens, batch.num_targets) == (6, 3)


def test_too_few_documents_are_refused_and_what_is_left_out_is_said(toy, tmp_path, capsys):
    with pytest.raises(UserError, match="has 4 usable documents, fewer than sft.batch_size 5"):
        fine_tune(toy, tmp_path, [*DOCUMENTS, Text("")], batch_size=5)
    assert "4 of 5 documents have tokens to learn within 48 tokens" in capsys.readouterr().out


def test_fine_tuning_learns_its_documents(toy, tmp_path):
    trainer = fine_tune(toy, tmp_path, max_steps=60, learning_rate=3e-2, log_every=10)
    trainer.train()
    assert toy.rows(tmp_path)[-1]["loss"] < 0.5 < 3 < toy.rows(tmp_path)[0]["loss"]
    assert loss_by_hand(toy, trainer.model) < 0.5


def test_activations_computed_twice_give_the_same_losses(toy, tmp_path):
    for on in (True, False):
        fine_tune(toy, tmp_path / str(on), gradient_checkpointing=on, max_steps=3).train()
    twice, once = (toy.rows(tmp_path / str(on)) for on in (True, False))
    assert [row["loss"] for row in twice] == pytest.approx([row["loss"] for row in once], rel=1e-6)


# --- with an adapter

ADAPTED = {"adapter": {"rank": 4, "dropout": 0.3}, "max_steps": 6, "learning_rate": 3e-2, "warmup_ratio": 0}
IDS = torch.arange(2, 20).reshape(2, 9)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_adapter_is_trained_alone_and_merged_into_the_folder_that_is_saved(
    toy, tmp_path, architecture, checkpointing
):
    given = ADAPTED | {"gradient_checkpointing": checkpointing}
    given["adapter"] = given["adapter"] | {"merge": True}
    trainer = fine_tune(toy, tmp_path / "work", architecture=architecture, **given)
    model = trainer.model
    start, before = logits(model), {n: v.clone() for n, v in model.state_dict().items() if ".lora_" not in n}
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name in before)
    assert toy.rows(tmp_path / "work")[-1]["loss"] < toy.rows(tmp_path / "work")[0]["loss"]
    trainer.save(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not adapters.has_adapter(plain)
    assert not torch.allclose(logits(model), start, atol=1e-2)
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_killed_fine_tuning_of_an_adapter_ends_as_uninterrupted(toy, tmp_path, step):
    given = ADAPTED | {"checkpoint_every": 2}
    straight, killed = fine_tune(toy, tmp_path / "straight", **given), fine_tune(toy, tmp_path / "killed", **given)
    straight.train()
    killed.add_callback(toy.kill(step))
    toy.run_killed(killed)
    resumed = fine_tune(toy, tmp_path / "killed", **given)
    resumed.train()
    assert toy.rows(tmp_path / "killed") == toy.rows(tmp_path / "straight")
    expected = straight.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    with safe_open(tmp_path / "killed" / "checkpoint-6" / "model.safetensors", "pt") as file:
        assert all(".lora_" in name for name in file.keys())
