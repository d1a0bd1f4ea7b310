"""What a trainer saves: a policy that loads anywhere, its tokenizer, and mask heads that are those of training."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.models.loading import load_tokenizer
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.method_masks import load_masks


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "qwen2", "gpt_bigcode"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["sparsepo_common", "mapo"])
def test_a_saved_policy_and_its_heads_are_those_that_were_trained(toy, tmp_path, architecture, tied, method):
    reference = toy.model(architecture, tie_word_embeddings=tied)
    trainer = toy.trainer(tmp_path / "work", method, reference=reference, max_steps=2, warmup_ratio=0)
    trainer.train()
    trainer.save(tmp_path / "out")
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert policy.config.tie_word_embeddings == tied
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(4), 512, 512, 48).pairs
    mine, loaded = (
        inspect_pairs(model.eval(), reference, pairs, method, {}, masks)
        for model, masks in ((trainer.policy, trainer.masks), (policy, load_masks(tmp_path / "out", reference)))
    )
    assert mine == loaded
    assert abs(mine[0]["reward_chosen"]) > 0


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_the_tokenizer_beside_a_policy_is_the_one_it_was_trained_with(toy, tmp_path, architecture):
    toy.trainer(tmp_path / "work", reference=toy.model(architecture)).save(tmp_path / "out")
    loaded = load_tokenizer(tmp_path / "out")
    text = "w01 w59 nowhere w00"
    assert loaded(text)["input_ids"] == toy.tokenizer(text)["input_ids"]
    assert loaded.decode([5, 9, 7]) == toy.tokenizer.decode([5, 9, 7])


@pytest.mark.parametrize("head", ["layers", "last", "feed_forward_layers", "binary_last"])
def test_heads_of_every_kind_are_loaded_with_their_kind(toy, tmp_path, head):
    trainer = toy.trainer(tmp_path / "work", "sparsepo_independent", hyper={"mask": head, "beta": 0.5})
    trainer.save(tmp_path / "out")
    loaded = load_masks(tmp_path / "out", trainer.model.reference)
    assert str(loaded) == str(trainer.masks)
    expected = trainer.masks.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_a_policy_without_masks_has_none_to_load(toy, tmp_path):
    toy.trainer(tmp_path / "work", "dpo").save(tmp_path / "out")
    assert load_masks(tmp_path / "out", toy.model()) is None


@pytest.mark.parametrize("other", [{"n_embd": 32}, {"n_layer": 3}])
def test_heads_of_another_reference_are_refused(toy, tmp_path, other):
    toy.trainer(tmp_path / "work", "sparsepo_common").save(tmp_path / "out")
    with pytest.raises(UserError, match=f"{tmp_path}/out/masks.safetensors: mask heads of another reference model"):
        load_masks(tmp_path / "out", toy.model(**other))
