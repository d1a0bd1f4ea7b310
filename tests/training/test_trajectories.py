"""One trajectory, several ways to it: in micro-batches, with dropout in the config, in bfloat16, with less memory."""

import importlib.util
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs

METHODS = ["dpo", "mapo", "sparsepo_independent"]


def assert_one_trajectory(first, second, tolerance=1e-5):
    assert len(first) == len(second) > 0
    for mine, theirs in zip(first, second, strict=True):
        assert mine == pytest.approx(theirs, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("count", [24, 21])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_8_is_two_of_4(toy, tmp_path, method, count):
    """In float64, as Adam blows up the rounding of a gradient that is zero; with 21 pairs the last batch is 4 + 1."""
    found = {}
    for micro in (None, 4):
        folder, reference = tmp_path / str(micro), toy.model(dtype=torch.float64)
        trainer = toy.trainer(
            folder, method, reference=reference, data=count, num_train_epochs=2, micro_batch_size=micro
        )
        trainer.train()
        found[micro] = toy.rows(folder), toy.weights(trainer.policy)
    rows, weights = found[None]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert_one_trajectory(found[4][0], rows)
    for name, value in found[4][1].items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-6)


WAYS = {
    "padded": {"layout": "padded"},
    "pairs": {"layout": "pairs"},
    "recomputed": {"gradients": "recompute"},
    "budget": {"micro_batch_tokens": 40},
    "padded budget": {"layout": "padded", "micro_batch_tokens": 60, "gradients": "recompute"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", METHODS)
def test_how_a_step_is_computed_does_not_change_the_trajectory(toy, tmp_path, method, way):
    """Against shared prompts, gradients in the forward pass and one micro-batch; in float64, as above."""
    found = {}
    for name, settings in (("default", {}), (way, WAYS[way])):
        folder, reference = tmp_path / name, toy.model(dtype=torch.float64)
        trainer = toy.trainer(folder, method, reference=reference, data=24, num_train_epochs=2, **settings)
        trainer.train()
        found[name] = toy.rows(folder), toy.weights(trainer.policy)
    (rows, weights), (others, other_weights) = found["default"], found[way]
    assert_one_trajectory(others, rows)
    for name, value in other_weights.items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-6)


def test_a_token_budget_cuts_every_step_and_loses_no_pair(toy, tmp_path):
    trainer = toy.trainer(tmp_path, data=24, micro_batch_tokens=40)
    batches = trainer.data_collator(range(8))["micro_batches"]
    assert len(batches) > 1 and all(batch.inputs.input_ids.numel() <= 40 for batch in batches)
    assert sorted(index for batch in batches for index in batch.pair_indices) == list(range(8))


class CountsSyncs(TorchDispatchMode):
    """Counts what would make a GPU wait: values that leave the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket._qualified_op_name == "aten::_local_scalar_dense"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gradients", ["forward", "recompute"])
def test_no_value_leaves_the_device_between_two_logs(toy, tmp_path, method, gradients):
    """After the first step, which is checked; an optimiser's own steps are not looked at."""
    trainer = toy.trainer(tmp_path, method, gradients=gradients, micro_batch_size=4)
    trainer.create_optimizer()
    trainer.state.global_step = 1
    inputs = trainer.data_collator(range(8))
    with CountsSyncs() as syncs:
        trainer.training_step(trainer.model, inputs)
    assert syncs.count == 0


def test_the_optimiser_is_fused_and_has_a_group_for_the_mask_heads(toy, tmp_path):
    optimizer = toy.trainer(tmp_path, "sparsepo_common", mask_learning_rate=0.5).create_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["fused"]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.01, 0.0]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optimiser_whose_library_is_missing_is_refused_by_name(toy, tmp_path):
    trainer = toy.trainer(tmp_path, optimizer="adamw_8bit")
    with pytest.raises(UserError, match="^optimizer 'adamw_8bit' cannot be used here .*bitsandbytes"):
        trainer.train()


@pytest.mark.parametrize("micro", [None, 4])
def test_the_loss_of_a_batch_is_the_mean_over_its_pairs_however_many(toy, tmp_path, micro):
    """Nothing is learned, so that an epoch's losses are those of the 21 pairs, 8 + 8 + 5 of them."""
    trainer = toy.trainer(tmp_path, "simpo", data=21, micro_batch_size=micro, learning_rate=1e-12)
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(21), 512, 512, 48).pairs
    losses = [record["loss"] for record in inspect_pairs(trainer.policy, trainer.model.reference, pairs, "simpo")]
    trainer.train()
    logged = [row["loss"] for row in toy.rows(tmp_path)]
    assert (8 * logged[0] + 8 * logged[1] + 5 * logged[2]) / 21 == pytest.approx(sum(losses) / 21, rel=1e-5)


@pytest.mark.parametrize("method", ["dpo", "sparsepo_independent"])
def test_a_line_of_the_log_is_the_mean_over_the_steps_since_the_last(toy, tmp_path, method):
    for every in (1, 3):
        toy.trainer(tmp_path / str(every), method, data=24, num_train_epochs=2, log_every=every).train()
    single, grouped = toy.rows(tmp_path / "1"), toy.rows(tmp_path / "3")
    assert [row["step"] for row in grouped] == [1, 3, 6]
    for name in set(single[0]) - {"step", "grad_norm", "learning_rate"}:
        assert grouped[1][name] == pytest.approx((single[1][name] + single[2][name]) / 2, rel=1e-5, abs=1e-6)
        assert grouped[2][name] == pytest.approx(sum(row[name] for row in single[3:]) / 3, rel=1e-5, abs=1e-6)


def test_the_last_step_is_in_the_log_whatever_the_interval(toy, tmp_path):
    toy.trainer(tmp_path, data=40, log_every=3).train()
    assert [row["step"] for row in toy.rows(tmp_path)] == [1, 3, 5]


@pytest.mark.parametrize(
    "architecture, dropout",
    [("gpt2", dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0.3)), ("llama", {"attention_dropout": 0.3})],
)
@pytest.mark.parametrize("training", [True, False])
def test_dropout_in_the_config_changes_nothing(toy, tmp_path, architecture, dropout, training):
    found = []
    for name, rate in (("with", 1), ("without", 0)):
        reference = toy.model(architecture, **{key: rate * value for key, value in dropout.items()}).train(training)
        toy.trainer(tmp_path / name, "sparsepo_common", reference=reference, max_steps=4).train()
        found.append(toy.rows(tmp_path / name))
    assert found[0] == found[1]
    assert found[0][0]["reward_chosen"] == found[0][0]["logp_change_rejected"] == 0


def test_activations_computed_twice_give_the_same_losses(toy, tmp_path):
    rows = {}
    for on in (True, False):
        trainer = toy.trainer(tmp_path / str(on), "sparsepo_common", max_steps=4, gradient_checkpointing=on)
        assert trainer.policy.is_activation_checkpointing == on
        trainer.train()
        rows[on] = toy.rows(tmp_path / str(on))
    assert_one_trajectory(rows[True], rows[False])


@pytest.mark.parametrize("method", ["dpo", "tdpo1", "mapo", "sparsepo_independent"])
def test_bfloat16_is_near_float32_and_keeps_float32_weights(toy, tmp_path, method):
    rows = {}
    for precision in ("bfloat16", "float32"):
        folder = tmp_path / precision
        trainer = toy.trainer(folder, method, data=24, precision=precision, learning_rate=1e-2)
        trainer.train()
        rows[precision] = toy.rows(folder)
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert len(rows["bfloat16"]) == 3
    assert all(math.isfinite(value) for row in rows["bfloat16"] for value in row.values())
    assert rows["bfloat16"] != rows["float32"]
    assert rows["bfloat16"][2]["loss"] == pytest.approx(rows["float32"][2]["loss"], rel=0.05)


def test_a_seed_gives_one_run_whatever_was_drawn_before_it_and_another_seed_another(toy, tmp_path):
    """A trainer of another seed that is made in between is no matter."""
    alone = toy.trainer(tmp_path / "alone", "simpo", max_steps=3)
    alone.train()
    again, other = (toy.trainer(tmp_path / str(seed), "simpo", seed=seed, max_steps=3) for seed in (0, 1))
    for trainer in (again, other):
        trainer.train()
    assert toy.rows(again.folder) == toy.rows(alone.folder) != toy.rows(other.folder)
