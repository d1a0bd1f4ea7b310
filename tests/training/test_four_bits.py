"""4-bit weights under an adapter: what is stored, what is trained, and what is saved."""

import importlib.util

import pytest
import torch

from sparsepo.config.training import AdapterConfig, SftConfig
from sparsepo.data.records import Text
from sparsepo.models import adapters
from sparsepo.models.loading import load_model
from sparsepo.runtime.errors import UserError
from sparsepo.training.sft_trainer import SFTTrainer

HERE = importlib.util.find_spec("bitsandbytes") is not None
needs_4_bits = pytest.mark.skipif(not HERE, reason="4-bit weights need bitsandbytes: pip install 'sparsepo[qlora]'")
RUN = {"adapter": {"rank": 4, "quantization": "nf4"}, "warmup_ratio": 0, "learning_rate": 1e-2}
KILLED = {"num_train_epochs": 2, "micro_batch_size": 4, "checkpoint_every": 2, "identity": "mine"}
IDS = torch.arange(2, 20).reshape(2, 9)


def trainer_of(toy, folder, model, method="dpo", **changed):
    """A trainer whose reference shares the policy's weights."""
    return toy.trainer(folder, method, policy=model, reference=adapters.clone_sharing_weights(model), **RUN | changed)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []


@pytest.mark.skipif(HERE, reason="bitsandbytes is here")
def test_without_its_library_4_bits_are_refused_in_a_sentence(toy, tmp_path):
    toy.model("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="quantization 'nf4' cannot be used here .*bitsandbytes"):
        load_model(tmp_path, quantization="nf4")


@pytest.fixture
def four_bits(toy, tmp_path):
    """Makes the same 4-bit model each time; wide enough that blocks of 64 weights are a part of a map."""

    def make(architecture="llama"):
        if not (tmp_path / architecture).exists():
            wide = {"n_embd": 64} if architecture == "gpt2" else {"hidden_size": 64, "intermediate_size": 128}
            toy.model(architecture, **wide, initializer_range=0.1).save_pretrained(tmp_path / architecture)
        return load_model(tmp_path / architecture, quantization="nf4")

    return make


@needs_4_bits
def test_4_bit_weights_are_4_bits_and_never_touched_by_a_run(toy, tmp_path, four_bits):
    model = four_bits()
    before = toy.weights(model)
    packed = model.model.layers[0].mlp.up_proj.weight
    assert packed.numel() * packed.element_size() == 64 * 128 // 2
    trainer = trainer_of(toy, tmp_path / "work", model, "sparsepo_independent", num_train_epochs=2)
    said = logits(trainer.model.reference)
    assert torch.equal(logits(trainer.policy), said)
    trainer.train()
    after = {name.replace(".base_layer", ""): v for name, v in toy.weights(trainer.policy).items()}
    assert_equal({name: value for name, value in after.items() if ".lora_" not in name}, before)
    assert torch.equal(logits(trainer.model.reference), said)
    assert not torch.allclose(logits(trainer.policy), said, atol=1e-3)


@needs_4_bits
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_killed_4_bit_run_ends_as_an_uninterrupted_one(toy, tmp_path, four_bits, checkpointing):
    given = KILLED | {"gradient_checkpointing": checkpointing}
    straight = trainer_of(toy, tmp_path / "straight", four_bits(), **given)
    straight.train()
    toy.run_killed(trainer_of(toy, tmp_path / "killed", four_bits(), killed_at=3, **given))
    resumed = trainer_of(toy, tmp_path / "killed", four_bits(), **given)
    resumed.train()
    assert_equal(toy.weights(resumed.model), toy.weights(straight.model))
    assert toy.rows(resumed.folder) == toy.rows(straight.folder)


@needs_4_bits
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ["tdpo1", "sparsepo_independent"])
def test_a_4_bit_run_is_a_run_on_the_weights_that_the_4_bits_stand_for(toy, tmp_path, four_bits, architecture, method):
    """Also after the model was used in eval mode, where some CPUs would lose the gradient."""
    model, zero = four_bits(architecture), four_bits(architecture)
    logits(model)
    adapters.add_adapter(zero, AdapterConfig(**RUN["adapter"]))
    plain = adapters.merge_adapter(zero)
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-4)
    for name, start, kind in (("4", model, "nf4"), ("32", plain, "none")):
        adapter = {"rank": 4, "quantization": kind}
        trainer_of(toy, tmp_path / name, start, method, max_steps=4, adapter=adapter).train()
    for mine, theirs in zip(toy.rows(tmp_path / "4"), toy.rows(tmp_path / "32"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


@needs_4_bits
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("merge", [False, True])
def test_a_saved_4_bit_policy_is_what_was_trained(toy, tmp_path, four_bits, architecture, merge):
    """An adapter is loaded on the 4 bits that it was trained on; a merged policy has plain weights."""
    adapter = RUN["adapter"] | {"merge": merge}
    trainer = trainer_of(toy, tmp_path / "work", four_bits(architecture), "tdpo1", max_steps=3, adapter=adapter)
    trainer.train()
    trainer.save(tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    torch.testing.assert_close(logits(loaded), logits(trainer.policy), rtol=0, atol=1e-4 if merge else 1e-6)
    assert hasattr(loaded.config, "quantization_config") != merge
    if merge:
        assert {value.dtype for value in loaded.parameters()} == {torch.float32}


@needs_4_bits
@pytest.mark.parametrize("merge", [False, True])
def test_a_4_bit_adapter_on_a_4_bit_adapter_is_one_of_both(toy, tmp_path, four_bits, merge):
    documents = [Text(pair.chosen, pair.prompt) for pair in toy.pairs(8)]
    config = SftConfig(batch_size=8, max_steps=4, learning_rate=1e-2, warmup_ratio=0, adapter=RUN["adapter"])
    sft = SFTTrainer(four_bits(), toy.tokenizer, documents, config=config, folder=tmp_path / "work")
    sft.train()
    sft.save(tmp_path / "sft")
    start = load_model(tmp_path / "sft")
    torch.testing.assert_close(logits(start), logits(sft.model), rtol=0, atol=1e-6)
    adapters.save_trained(load_model(tmp_path / "sft"), toy.tokenizer, tmp_path / "plain", None)
    torch.testing.assert_close(logits(load_model(tmp_path / "plain")), logits(start), rtol=0, atol=1e-4)
    said, adapter = logits(start), {"rank": 2, "quantization": "nf4", "merge": merge}
    trainer = trainer_of(toy, tmp_path / "next", start, max_steps=3, adapter=adapter)
    assert torch.equal(logits(trainer.policy), said)
    trained = {name for name, value in trainer.policy.named_parameters() if value.requires_grad}
    assert trained and all(".default." in name for name in trained)
    trainer.train()
    assert torch.equal(logits(trainer.model.reference), said) and not torch.allclose(logits(trainer.policy), said)
    trainer.save(tmp_path / "out")
    torch.testing.assert_close(logits(load_model(tmp_path / "out")), logits(trainer.policy), rtol=0, atol=1e-4)


@needs_4_bits
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_fine_tuning_on_4_bits_is_saved_as_the_model_that_was_trained(toy, tmp_path, four_bits, architecture):
    documents = [Text(pair.chosen, pair.prompt) for pair in toy.pairs(8)]
    adapter = {"rank": 4, "quantization": "nf4", "dropout": 0.3}
    config = SftConfig(
        batch_size=8, num_train_epochs=6, learning_rate=1e-2, warmup_ratio=0, checkpoint_every=0, adapter=adapter
    )
    trainer = SFTTrainer(four_bits(architecture), toy.tokenizer, documents, config=config, folder=tmp_path / "work")
    start = logits(trainer.model)
    trainer.train()
    trainer.save(tmp_path / "out")
    assert not torch.allclose(logits(trainer.model), start, atol=1e-3)
    torch.testing.assert_close(logits(load_model(tmp_path / "out")), logits(trainer.model), rtol=0, atol=1e-4)
