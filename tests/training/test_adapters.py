"""Adapters: what is trained and what is not, every way to compute, and plain weights at the end."""

import json
import shutil
import warnings
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
from sparsepo.models.adapter_folder import join_loras
from sparsepo.models.loading import load_model, load_tokenizer, save_model
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


@pytest.fixture
def saved(toy, tmp_path):
    """Makes a model folder, and loads the model in it."""

    def make(architecture="gpt2", name="base", **changed):
        model = toy.model(architecture, **changed)
        save_model(model, toy.tokenizer, tmp_path / name)
        return load_model(tmp_path / name)

    return make


def files(folder):
    return {path.name for path in folder.iterdir() if path.name != ".checksums"}


@pytest.mark.parametrize("method", ["dpo", "sparsepo_independent"])
@pytest.mark.parametrize("merge", [False, True])
def test_a_saved_folder_is_the_policy_that_was_trained(toy, tmp_path, saved, method, merge):
    adapter = {"rank": 4, "merge": merge}
    trainer = adapted_trainer(toy, tmp_path / "work", method, model=saved("llama"), max_steps=3, adapter=adapter)
    trainer.train()
    trainer.save(tmp_path / "out")
    mine, other = {"model.safetensors", "config.json"}, {"adapter_model.safetensors", "adapter_config.json"}
    mine, other = (mine, other) if merge else (other, mine)
    assert mine | {"tokenizer.json"} <= files(tmp_path / "out") and not other & files(tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert not adapters.has_adapter(loaded) and all(value.requires_grad for value in loaded.parameters())
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(4), 512, 512, 48).pairs
    reference = trainer.model.reference
    mine, plain = (
        inspect_pairs(model.eval(), reference, pairs, method, {}, trainer.masks) for model in (trainer.policy, loaded)
    )
    assert abs(mine[0]["reward_chosen"]) > 1e-3
    for one, two in zip(mine, plain, strict=True):
        assert one["chosen"]["logps"] == pytest.approx(two["chosen"]["logps"], abs=1e-5)
        assert one["reward_rejected"] == pytest.approx(two["reward_rejected"], abs=1e-5)


def trained(toy, folder, out, model, **changed):
    """A trained and saved policy of three steps, after which its adapter does something."""
    trainer = adapted_trainer(toy, folder / "work" / out, model=model, max_steps=3, **changed)
    trainer.train()
    trainer.save(folder / out)
    return trainer.policy


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_adapter_and_the_same_run_merged_are_one_model_in_every_bit(toy, tmp_path, saved, architecture):
    for merge in (False, True):
        trained(toy, tmp_path, str(merge), saved(architecture), adapter={"rank": 4, "merge": merge})
    adapter, merged = (toy.weights(load_model(tmp_path / name)) for name in ("False", "True"))
    assert_equal(adapter, merged)
    assert_equal(*(toy.weights(load_model(tmp_path / name, "bfloat16")) for name in ("False", "True")))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_peft_and_transformers_load_what_is_saved(toy, tmp_path, saved, architecture):
    from peft import AutoPeftModelForCausalLM, PeftModel

    base = saved(architecture)
    said = logits(trained(toy, tmp_path, "out", base))
    for loaded in (
        PeftModel.from_pretrained(saved(architecture), tmp_path / "out"),
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
    ):
        torch.testing.assert_close(logits(loaded), said, rtol=0, atol=1e-6)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_an_adapter_on_an_adapter_is_saved_as_one_of_both_on_the_first_base(toy, tmp_path, saved, targets):
    """The second is trained on the first as on any model, and peft loads the result without the folder between."""
    from peft import AutoPeftModelForCausalLM

    first = trained(toy, tmp_path, "sft", saved("llama"), adapter={"rank": 3, "alpha": 5.0})
    start = load_model(tmp_path / "sft")
    torch.testing.assert_close(logits(start), logits(first), rtol=0, atol=1e-5)
    second = trained(toy, tmp_path, "out", start, adapter={"rank": 2, "target_modules": targets})
    assert not torch.allclose(logits(second), logits(first), atol=1e-3)
    (tmp_path / "sft").rename(tmp_path / "gone")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 5 and config["base_model_name_or_path"] == str(tmp_path / "base")
    for loaded in (load_model(tmp_path / "out"), AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")):
        torch.testing.assert_close(logits(loaded), logits(second), rtol=0, atol=1e-5)


def test_all_weights_are_trained_on_from_an_adapter(toy, tmp_path, saved):
    trained(toy, tmp_path, "sft", saved())
    trainer = toy.trainer(
        tmp_path / "full", policy=load_model(tmp_path / "sft"), reference=load_model(tmp_path / "sft"), max_steps=2
    )
    trainer.train()
    trainer.save(tmp_path / "out")
    assert "model.safetensors" in files(tmp_path / "out")
    assert torch.equal(logits(load_model(tmp_path / "out")), logits(trainer.policy))


def test_results_that_were_moved_as_a_whole_keep_their_base(toy, tmp_path, saved):
    policy = trained(toy, tmp_path, "old/runs/dpo/seed~0", saved(name="old/sft"))
    (tmp_path / "old").rename(tmp_path / "new")
    torch.testing.assert_close(logits(load_model(tmp_path / "new/runs/dpo/seed~0")), logits(policy), rtol=0, atol=1e-5)
    shutil.rmtree(tmp_path / "new" / "sft")
    with pytest.raises(UserError, match="the base model of this adapter, .*old/sft, is not there"):
        load_model(tmp_path / "new/runs/dpo/seed~0")


def test_an_adapter_of_peft_with_trained_embeddings_of_added_tokens_is_a_start(toy, tmp_path, saved):
    from peft import LoraConfig, get_peft_model

    saved("llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    rows = model.get_input_embeddings().weight.shape[0] + 3
    model.resize_token_embeddings(rows)
    lora = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False
    )
    adapted = get_peft_model(model, lora)
    torch.manual_seed(1)
    for name, value in adapted.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(value, std=0.3)
    adapted.save_pretrained(tmp_path / "start", save_embedding_layers=False)
    assert "config.json" not in files(tmp_path / "start")
    loaded = load_model(tmp_path / "start")
    assert loaded.get_input_embeddings().weight.shape[0] == rows
    torch.testing.assert_close(logits(loaded), logits(adapted), rtol=0, atol=1e-5)
    assert load_tokenizer(tmp_path / "start").get_vocab() == toy.tokenizer.get_vocab()
    policy = trained(toy, tmp_path, "out", loaded)
    torch.testing.assert_close(logits(load_model(tmp_path / "out")), logits(policy), rtol=0, atol=1e-5)
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
        assert "base_model.model.model.embed_tokens.weight" in file.keys()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_embedding_and_output_head_are_trained_beside_an_adapter_and_saved_with_it(
    toy, tmp_path, saved, architecture, tied
):
    from peft import AutoPeftModelForCausalLM

    base = saved(architecture, tie_word_embeddings=tied)
    ends = {"embed": base.get_input_embeddings().weight, "head": base.get_output_embeddings().weight}
    before = {name: value.clone() for name, value in ends.items()}
    names = ["wte" if architecture == "gpt2" else "embed_tokens", "lm_head"]
    adapter = {"rank": 2, "modules_to_save": names[:1] if tied else names}
    trainer = adapted_trainer(toy, tmp_path / "work", "tdpo1", model=base, adapter=adapter, max_steps=3)
    trainer.train()
    trainer.save(tmp_path / "out")
    policy, reference = trainer.policy, trainer.model.reference
    after = policy.get_input_embeddings().weight, policy.get_output_embeddings().weight
    assert (after[0] is after[1]) == tied
    assert not torch.equal(after[0], before["embed"]) and not torch.equal(after[1], before["head"])
    assert torch.equal(reference.get_input_embeddings().weight, before["embed"])
    assert torch.equal(reference.get_output_embeddings().weight, before["head"])
    loaded = load_model(tmp_path / "out")
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == tied
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`|Model with `tie_word", UserWarning)
        others = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    for model in (loaded, others, adapters.merge_adapter(policy)):
        torch.testing.assert_close(logits(model), logits(policy), rtol=0, atol=1e-5)


def test_a_killed_run_that_trains_the_embedding_ends_as_an_uninterrupted_one(toy, tmp_path):
    given = KILLED | {"adapter": {"rank": 2, "modules_to_save": ["wte"]}, "learning_rate": 1e-2}
    straight = adapted_trainer(toy, tmp_path / "straight", **given)
    straight.train()
    toy.run_killed(adapted_trainer(toy, tmp_path / "killed", killed_at=3, **given))
    resumed = adapted_trainer(toy, tmp_path / "killed", **given)
    resumed.train()
    assert_equal(toy.weights(resumed.model), toy.weights(straight.model))
    assert toy.rows(resumed.folder) == toy.rows(straight.folder)
    with safe_open(tmp_path / "straight" / "checkpoint-6" / "model.safetensors", "pt") as file:
        assert any(
            file.get_tensor(name).shape == straight.policy.get_input_embeddings().weight.shape for name in file.keys()
        )


def test_an_adapter_on_an_adapter_has_the_embedding_that_was_trained_last(toy, tmp_path, saved):
    whole = {"rank": 2, "modules_to_save": ["embed_tokens"]}
    first = trained(toy, tmp_path, "sft", saved("llama", tie_word_embeddings=False), adapter=whole)
    second = trained(toy, tmp_path, "out", load_model(tmp_path / "sft"), adapter=whole)
    assert not torch.equal(first.get_input_embeddings().weight, second.get_input_embeddings().weight)
    torch.testing.assert_close(logits(load_model(tmp_path / "out")), logits(second), rtol=0, atol=1e-5)
    third = trained(toy, tmp_path, "last", load_model(tmp_path / "out"))
    torch.testing.assert_close(logits(load_model(tmp_path / "last")), logits(third), rtol=0, atol=1e-5)


def test_a_tied_embedding_that_another_library_trained_alone_is_untied(toy, tmp_path, saved):
    """peft trains a copy of the embedding and leaves the output head as it was."""
    from peft import LoraConfig, get_peft_model

    saved("llama", tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with warnings.catch_warnings(action="ignore"):
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"]))
    torch.nn.init.normal_(adapted.get_input_embeddings().weight, std=0.3)
    adapted.save_pretrained(tmp_path / "start", save_embedding_layers=False)
    loaded = load_model(tmp_path / "start")
    torch.testing.assert_close(logits(loaded), logits(adapted), rtol=0, atol=1e-5)
    save_model(loaded, toy.tokenizer, tmp_path / "plain")
    torch.testing.assert_close(logits(load_model(tmp_path / "plain")), logits(adapted), rtol=0, atol=1e-5)


def test_two_loras_joined_are_the_sum_of_both():
    first = {"q.lora_A.weight": torch.tensor([[1.0, 2.0]]), "q.lora_B.weight": torch.tensor([[1.0], [3.0]])}
    second = {"v.lora_A.weight": torch.tensor([[4.0, 5.0]]), "v.lora_B.weight": torch.tensor([[7.0], [0.0]])}
    joined = join_loras(first, 2.0, second, 0.5)
    q, v = (joined[f"{name}.lora_B.weight"] @ joined[f"{name}.lora_A.weight"] for name in ("q", "v"))
    assert q.tolist() == [[2.0, 4.0], [6.0, 12.0]] and v.tolist() == [[14.0, 17.5], [0.0, 0.0]]
    assert all(min(value.shape) == 2 for value in joined.values())


def test_an_adapter_that_does_not_fit_its_base_is_refused(toy, tmp_path, saved):
    trained(toy, tmp_path, "out", saved("llama"))
    saved("gpt2")
    with pytest.raises(UserError, match="out: .*(cannot load this adapter|does not fit)"):
        load_model(tmp_path / "out")


def test_weights_in_no_folder_are_told_when_their_adapter_is_saved(toy, tmp_path):
    trainer = adapted_trainer(toy, tmp_path / "work", max_steps=1)
    trainer.train()
    with pytest.warns(UserWarning, match="the weights of GPT2LMHeadModel are in no folder"):
        trainer.save(tmp_path / "out")


def test_a_run_that_was_merged_leaves_no_adapter_behind_and_the_other_way_round(toy, tmp_path, saved):
    for merge in (True, False, True):
        trained(toy, tmp_path, "out", saved(), adapter={"rank": 2, "merge": merge})
        kinds = {"model.safetensors", "adapter_model.safetensors"} & files(tmp_path / "out")
        assert kinds == {"model.safetensors" if merge else "adapter_model.safetensors"}
        load_model(tmp_path / "out")
        shutil.rmtree(tmp_path / "work")


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
        ({"modules_to_save": ["lm_head"], "quantization": "nf4"}, "write merge: true"),
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
            model, AdapterConfig.model_construct(**AdapterConfig(rank=2).model_dump() | {"target_modules": targets})
        )
    assert not adapters.has_adapter(model)


def test_modules_that_cannot_be_trained_whole_are_refused(toy):
    for dtype, name, sentence in [
        (
            torch.float32,
            "embed_tokens",
            "'embed_tokens' is no embedding or .* of GPT2LMHeadModel, which has wte and lm_head",
        ),
        (torch.bfloat16, "wte", "half precision rounds .* write model: {dtype: float32}"),
    ]:
        with pytest.raises(UserError, match=sentence):
            adapters.add_adapter(toy.model(dtype=dtype), AdapterConfig(modules_to_save=[name]))


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
