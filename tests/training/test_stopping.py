"""What stops a preference run: before it starts, at its first step, or when a loss is not a number any more."""

import json
import math

import pytest
from safetensors.torch import load_file

from sparsepo.config.training import SftConfig
from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.records import Preference, Text
from sparsepo.runtime.errors import UserError
from sparsepo.training.sft_trainer import SFTTrainer


def test_a_policy_that_is_not_the_reference_is_refused_at_step_0(toy, tmp_path):
    trainer = toy.trainer(tmp_path, policy=toy.model(seed=1))
    with pytest.raises(UserError, match="policy and the reference differ before the first step .*allowed 0.001"):
        trainer.train()


def test_one_model_for_both_is_refused(toy, tmp_path):
    model = toy.model()
    with pytest.raises(UserError, match="must be two models.*deepcopy"):
        toy.trainer(tmp_path, policy=model, reference=model)


def test_fewer_usable_pairs_than_a_batch_are_refused_with_counts(toy, tmp_path):
    bad = [Preference("w01", "w02", "w02"), Preference("w01", "w03", "w03"), Preference("w01", "", "w02")]
    with pytest.raises(UserError) as refused:
        toy.trainer(tmp_path, data=toy.pairs(5) + bad)
    message = str(refused.value)
    assert message.startswith("5 usable pairs are fewer than one batch of 8 (training.batch_size)")
    assert "responses are equal after tokenisation and truncation': 2" in message and "chosen is empty': 1" in message


def test_a_loss_that_is_not_a_number_stops_the_run_at_its_step_with_its_batch(toy, tmp_path):
    def poison(policy):
        policy.transformer.h[0].mlp.c_fc.weight.data[0, 0] = math.nan
        return {}

    trainer = toy.trainer(tmp_path, measure=poison, frontier_every=2)
    with pytest.raises(UserError, match=rf"^the loss is nan at step 3; the batch is in {tmp_path}/bad_batch.json$"):
        trainer.train()
    bad = json.loads((tmp_path / "bad_batch.json").read_text())
    own = [
        json.loads(json.dumps(vars(pair)))
        for pair in encode_pairs(Encoder(toy.tokenizer), toy.pairs(20), 512, 512, 48).pairs
    ]
    assert bad["step"] == 3
    assert len(bad["batch"]) == 4  # 20 pairs: 8, 8 and then 4 of them
    assert all(pair in own for pair in bad["batch"])
    assert [row["step"] for row in toy.rows(tmp_path)] == [1, 2]


def test_the_bad_batch_is_the_micro_batch_at_fault_and_never_reaches_a_checkpoint(toy, tmp_path):
    """One pair holds a word that no other has, whose embedding is not a number; little is logged, much is saved."""
    reference = toy.model(tie_word_embeddings=False)
    word = toy.tokenizer.convert_tokens_to_ids("<unk>")

    def poison(policy):
        policy.get_input_embeddings().weight.data[word] = math.nan
        return {}

    data = [*toy.pairs(15), Preference("w01 w02", "w03 nowhere w04", "w05")]
    given = {"reference": reference, "data": data, "num_train_epochs": 3, "micro_batch_size": 2, "log_every": 5}
    trainer = toy.trainer(tmp_path, measure=poison, frontier_every=1, checkpoint_every=1, **given)
    with pytest.raises(UserError, match="the loss is nan at step [234]"):
        trainer.train()
    bad = json.loads((tmp_path / "bad_batch.json").read_text())
    assert len(bad["batch"]) == 2 and any(word in pair["chosen"] for pair in bad["batch"])
    last = load_file(tmp_path / f"checkpoint-{bad['step'] - 1}" / "model.safetensors")
    assert {name for name, value in last.items() if not value.isfinite().all()} == {"policy.transformer.wte.weight"}


def fine_tuning(toy, folder):
    texts = [Text(pair.chosen, pair.prompt) for pair in toy.pairs(20)]
    config = SftConfig(batch_size=8, learning_rate=1e-3, checkpoint_every=0)
    return SFTTrainer(toy.model(), toy.tokenizer, texts, config=config, folder=folder)


@pytest.mark.parametrize("trainer_of", [fine_tuning, lambda toy, folder: toy.trainer(folder)], ids=["sft", "dpo"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_any_loss_that_is_not_finite_stops_fine_tuning_and_preference_training(toy, tmp_path, trainer_of, value):
    trainer = trainer_of(toy, tmp_path)
    real = trainer.compute_loss

    def spoiled(*arguments, **named):
        found = real(*arguments, **named)
        return found + value if trainer.state.global_step == 1 else found

    trainer.compute_loss = spoiled
    with pytest.raises(UserError, match=rf"^the loss is {value} at step 2; the batch is in {tmp_path}/bad_batch.json$"):
        trainer.train()
    bad = json.loads((tmp_path / "bad_batch.json").read_text())
    assert bad["step"] == 2 and len(bad["batch"]) == 8
    assert [row["step"] for row in toy.rows(tmp_path)] == [1]
