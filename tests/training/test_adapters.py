"""Adapters: what is trained and what is not, every way to compute, and plain weights at the end."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from sparsepo.config.training import AdapterConfig
from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.models import adapters
from sparsepo.models.activations import record_activations
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs

ROOT = Path(__file__).resolve().parents[2]
METHODS = ["dpo", "tdpo1", "mapo", "sparsepo_independent"]
RUN = {"adapter": {"rank": 4}, "warmup_ratio": 0, "learning_rate": 1e-2}
IDS = torch.arange(2, 20).reshape(2, 9)


def adapted_trainer(toy, folder, method="dpo", *, model=None, **changed):
    """A trainer whose reference shares the policy's weights."""
    policy = toy.model() if model is None else model
    return toy.trainer(folder, method, policy=policy, reference=adapters.clone_sharing_weights(policy), **RUN | changed)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


def filled(model, seed=0, **settings):
    """The model with an adapter that does something."""
    adapters.add_adapter(model, AdapterConfig(**{"rank": 3, **settings}))
    torch.manual_seed(seed)
    for value in adapters.adapter_parameters(model).values():
        torch.nn.init.normal_(value, std=0.2)
    return model


def own_weights(model):
    """What the model had before it was adapted."""
    return {name.replace(".base_layer", ""): v for name, v in model.state_dict().items() if ".lora_" not in name}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []


# --- what is trained


@pytest.mark.parametrize("method", METHODS)
def test_a_run_moves_the_adapter_and_leaves_every_weight_of_the_model_as_it_was(toy, tmp_path, method):
    model = toy.model()
    before, said = toy.weights(model), logits(model)
    trainer = adapted_trainer(toy, tmp_path, method, model=model, num_train_epochs=2)
    trainer.train()
    assert_equal(own_weights(trainer.policy), before)
    assert torch.equal(logits(trainer.model.reference), said)
    assert not torch.allclose(logits(trainer.policy), said, atol=1e-3)
    losses = [row["loss"] for row in toy.rows(tmp_path)]
    assert losses[-1] < losses[0]


def test_before_the_first_step_policy_and_reference_agree_in_every_bit(toy, tmp_path):
    trainer = adapted_trainer(toy, tmp_path, "tdpo1", max_steps=1)
    assert torch.equal(logits(trainer.policy), logits(trainer.model.reference))
    trainer.train()
    (row,) = toy.rows(tmp_path)
    assert row["logp_change_chosen"] == row["logp_change_rejected"] == 0
    assert row["reverse_kl_chosen"] == pytest.approx(0, abs=1e-6)


def test_policy_and_reference_share_every_weight(toy):
    model = toy.model()
    clone_sharing_weights = adapters.clone_sharing_weights(model)
    adapters.add_adapter(model, AdapterConfig())
    owned = {id(value) for value in model.parameters()}
    assert all(id(value) in owned for value in clone_sharing_weights.parameters())
    assert not any(value.requires_grad for value in clone_sharing_weights.parameters())


def test_mask_heads_are_trained_beside_an_adapter_as_fast_as_without(toy, tmp_path):
    moved = []
    for name, adapter in (("with", {"rank": 4}), ("without", None)):
        trainer = toy.trainer(tmp_path / name, "sparsepo_independent", max_steps=3, warmup_ratio=0, adapter=adapter)
        before = toy.weights(trainer.masks)
        trainer.train()
        after = trainer.masks.state_dict()
        moved.append({key: float((after[key] - value).abs().max()) for key, value in before.items()})
    assert moved[0].keys() == moved[1].keys()
    assert all(value > 1e-4 for value in moved[0].values())
    assert moved[0] == pytest.approx(moved[1], rel=0.5)


def test_only_the_named_targets_get_an_adapter(toy):
    model = toy.model("llama")
    adapters.add_adapter(model, AdapterConfig(target_modules=["q_proj", "mlp.down_proj"]))
    found = {name.split("/lora_")[0] for name in adapters.adapter_parameters(model)}
    kinds = ("self_attn/q_proj", "mlp/down_proj")
    assert found == {f"model/layers/{layer}/{kind}" for layer in (0, 1) for kind in kinds}


@pytest.mark.parametrize("architecture, count", [("gpt2", 4), ("gpt_bigcode", 4), ("llama", 7), ("gpt_neox", 4)])
def test_all_linear_is_every_map_of_every_block_and_no_other(toy, architecture, count):
    model = toy.model(architecture)
    adapters.add_adapter(model, AdapterConfig())
    assert len(adapters.adapter_parameters(model)) == 2 * 2 * count
    outside = (model.get_output_embeddings(), model.get_input_embeddings())
    assert not any(hasattr(module, "base_layer") for module in outside)


# --- ways to compute


@pytest.mark.parametrize("method", ["tdpo1", "sparsepo_independent"])
def test_an_adapted_policy_takes_one_course_in_every_layout_and_with_checkpointing(toy, tmp_path, method):
    ways = [{"layout": name} for name in ("padded", "shared", "pairs")]
    ways += [{"gradient_checkpointing": True}, {"gradients": "forward"}, {"gradients": "recompute"}]
    courses = []
    for place, way in enumerate(ways):
        model = toy.model("llama", dtype=torch.float64)
        adapted_trainer(toy, tmp_path / str(place), method, model=model, max_steps=4, **way).train()
        courses.append(toy.rows(tmp_path / str(place)))
    for course in courses[1:]:
        for mine, first in zip(course, courses[0], strict=True):
            assert mine == pytest.approx(first, rel=1e-5, abs=1e-5)


def test_a_bfloat16_model_has_a_float32_adapter_and_can_train(toy, tmp_path):
    trainer = adapted_trainer(toy, tmp_path, model=toy.model(dtype=torch.bfloat16), max_steps=2)
    assert {value.dtype for value in adapters.adapter_parameters(trainer.policy).values()} == {torch.float32}
    trainer.train()
    assert adapters.merge_adapter(trainer.policy).dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "opt"])
def test_activations_are_read_off_the_model_not_off_its_adapter(toy, architecture):
    changed = {"ffn_dim": 32, "word_embed_proj_dim": 16} if architecture == "opt" else {}
    model = toy.model(architecture, **changed).eval()
    found = []
    for _ in range(2):
        with record_activations(model, "authors") as record:
            logits(model)
        found.append(record.values)
        if not adapters.has_adapter(model):
            adapters.add_adapter(model, AdapterConfig())
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        assert len(values) == (1 if name in ("embedding", "final norm", "logits") else 4 if name == "norm" else 2)
        assert all(map(torch.equal, values, found[1][name]))


# --- dropout

DROPS = {"adapter": {"rank": 4, "dropout": 0.5}, "warmup_ratio": 0, "learning_rate": 1e-2}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_dropout_is_on_in_training_mode_and_off_in_eval_mode_and_in_merged_weights(toy, architecture):
    model, dry = (filled(toy.model(architecture, dtype=torch.float64).eval(), dropout=rate) for rate in (0.5, 0.0))
    assert not any(module.training for module in model.modules())
    expected = logits(dry)
    assert torch.equal(logits(model), expected)
    torch.testing.assert_close(logits(adapters.merge_adapter(model)), expected, rtol=0, atol=1e-10)
    model.train()
    with torch.no_grad():
        first, second = (model(input_ids=IDS).logits for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3) and not torch.allclose(first, expected, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_changes_nothing_at_the_first_step_and_the_policy_alone_later(toy, tmp_path, method):
    trainer = adapted_trainer(toy, tmp_path / "drops", method, max_steps=3, **DROPS)
    said = logits(trainer.model.reference)
    trainer.train()
    adapted_trainer(toy, tmp_path / "dry", method, max_steps=3).train()
    drops, dry = toy.rows(tmp_path / "drops"), toy.rows(tmp_path / "dry")
    gradient = drops[0].pop("grad_norm"), dry[0].pop("grad_norm")
    assert drops[0] == dry[0] and drops[0]["logp_change_chosen"] == 0
    assert gradient[0] != gradient[1] and drops[1]["loss"] != dry[1]["loss"]
    assert torch.equal(logits(trainer.model.reference), said)


def test_activations_computed_twice_are_dropped_alike(toy, tmp_path):
    for on in (True, False):
        adapted_trainer(toy, tmp_path / str(on), max_steps=4, gradient_checkpointing=on, **DROPS).train()
    for mine, theirs in zip(toy.rows(tmp_path / "True"), toy.rows(tmp_path / "False"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_killed_run_with_dropout_ends_as_an_uninterrupted_one(toy, tmp_path, step):
    given = KILLED | DROPS
    straight = adapted_trainer(toy, tmp_path / "straight", **given)
    straight.train()
    toy.run_killed(adapted_trainer(toy, tmp_path / "killed", killed_at=step, **given))
    torch.rand(5)
    resumed = adapted_trainer(toy, tmp_path / "killed", **given)
    resumed.train()
    assert_equal(toy.weights(resumed.model), toy.weights(straight.model))
    assert toy.rows(resumed.folder) == toy.rows(straight.folder)


# --- checkpoints and what is saved

KILLED = {"num_train_epochs": 2, "micro_batch_size": 4, "checkpoint_every": 2, "identity": "mine"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [3, 6])
def test_a_killed_run_with_an_adapter_ends_as_an_uninterrupted_one(toy, tmp_path, method, step):
    straight = adapted_trainer(toy, tmp_path / "straight", method, **KILLED)
    straight.train()
    toy.run_killed(adapted_trainer(toy, tmp_path / "killed", method, killed_at=step, **KILLED))
    torch.rand(5)
    resumed = adapted_trainer(toy, tmp_path / "killed", method, **KILLED)
    resumed.train()
    assert_equal(toy.weights(resumed.model), toy.weights(straight.model))
    assert toy.rows(resumed.folder) == toy.rows(straight.folder)


def test_a_checkpoint_holds_what_is_trained_and_nothing_else(toy, tmp_path):
    trainer = adapted_trainer(toy, tmp_path, "sparsepo_independent", **KILLED)
    trainer.train()
    with safe_open(tmp_path / "checkpoint-6" / "model.safetensors", "pt") as file:
        saved = sum(file.get_tensor(name).numel() for name in file.keys())
    assert saved == sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_bigcode", "llama", "gpt_neox", "qwen2"])
def test_a_merged_model_is_the_adapted_one(toy, architecture, tied):
    model = filled(toy.model(architecture, dtype=torch.float64, tie_word_embeddings=tied), alpha=5)
    plain = adapters.merge_adapter(model)
    assert type(plain) is type(model) and not adapters.has_adapter(plain)
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-10)
    assert plain.state_dict().keys() == toy.model(architecture, tie_word_embeddings=tied).state_dict().keys()
    assert plain.config.tie_word_embeddings == tied


@pytest.mark.parametrize("method", ["dpo", "sparsepo_independent"])
def test_a_saved_folder_is_plain_and_the_policy_that_was_trained(toy, tmp_path, method):
    trainer = adapted_trainer(toy, tmp_path / "work", method, model=toy.model("llama"), max_steps=3)
    trainer.train()
    trainer.save(tmp_path / "out")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(4), 512, 512, 48).pairs
    reference = trainer.model.reference
    mine, plain = (
        inspect_pairs(model.eval(), reference, pairs, method, {}, trainer.masks) for model in (trainer.policy, loaded)
    )
    assert abs(mine[0]["reward_chosen"]) > 1e-3
    for one, two in zip(mine, plain, strict=True):
        assert one["chosen"]["logps"] == pytest.approx(two["chosen"]["logps"], abs=1e-5)
        assert one["reward_rejected"] == pytest.approx(two["reward_rejected"], abs=1e-5)


def test_the_adapter_beside_it_is_one_that_peft_loads_on_the_model_before_training(toy, tmp_path):
    from peft import PeftModel

    trainer = adapted_trainer(toy, tmp_path / "work", max_steps=3)
    trainer.train()
    trainer.save(tmp_path / "out")
    loaded = PeftModel.from_pretrained(toy.model(), tmp_path / "out" / "adapter")
    assert torch.equal(logits(loaded), logits(trainer.policy))


# --- refusals


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"target_modules": "all"}, "write all-linear or a list of names, as in .q_proj, v_proj., not .all."),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            "'lm_head' is an embedding or the output head, which are never adapted",
        ),
        ({"target_modules": ["transformer.wte"]}, "'transformer.wte' is an embedding or the output head"),
        ({"target_modules": []}, "write all-linear or a list of names"),
        ({"rank": 0}, "greater than 0"),
        ({"quantization": "int8"}, "'none' or 'nf4'"),
        ({"ranks": 4}, "not permitted"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_a_mistake_in_the_config_is_told(given, sentence):
    with pytest.raises(ValidationError, match=sentence):
        AdapterConfig(**given)


@pytest.mark.parametrize(
    "targets, sentence",
    [
        (["c_atn"], "GPT2LMHeadModel has no linear map 'c_atn' in its blocks; allowed: .*did you mean 'c_attn'"),
        (["attn"], "GPT2LMHeadModel has no linear map 'attn' in its blocks"),
        (["c_attn", "transformer.wte"], "'transformer.wte' is an embedding or the output head, which are not adapted"),
        (["lm_head"], "'lm_head' is an embedding or the output head, which are not adapted"),
    ],
)
def test_targets_that_are_no_maps_of_the_blocks_are_refused_by_name(toy, targets, sentence):
    model = toy.model()
    with pytest.raises(UserError, match=sentence):
        adapters.add_adapter(
            model, AdapterConfig.model_construct(target_modules=targets, rank=2, alpha=2.0, quantization="none")
        )
    assert not adapters.has_adapter(model)


def test_what_cannot_be_adapted_is_refused(toy, tmp_path):
    model = toy.model()
    with pytest.raises(UserError, match=r"was not loaded so: load_model\(folder, quantization='nf4'\)"):
        adapters.add_adapter(model, AdapterConfig(quantization="nf4"))
    with pytest.raises(UserError, match="policy and reference must be two models"):
        adapted_trainer(toy, tmp_path, model=model, adapter=None)
    adapters.add_adapter(model, AdapterConfig())
    with pytest.raises(UserError, match="has an adapter already; merge it first"):
        adapters.add_adapter(model, AdapterConfig())
    with pytest.raises(UserError, match="call clone_sharing_weights before add_adapter"):
        adapters.clone_sharing_weights(model)
