"""Weights divided by their mean over a step, and the beta that acts."""

import pytest
import torch

from sparsepo.methods.registry import METHODS
from sparsepo.training.inspection import inspect_pairs

SIDES = ("chosen", "rejected")


def token_weights(records, name="m_u"):
    return [weight for record in records for side in SIDES for weight in record[side][name]]


@pytest.mark.parametrize("size", [8, 3])
def test_normalised_weights_are_the_weights_over_their_mean_however_a_step_is_cut(toy, tmp_path, size):
    """Heads that were moved away from mean 1, in batches of 8 or of 3, 3 and 2 pairs."""
    trainer = toy.trainer(tmp_path, "sparsepo_independent")
    with torch.no_grad():
        trainer.masks.heads["u"].merge.weight.mul_(3.0)
    models = trainer.policy, trainer.model.reference
    weights = {}
    for normalise in ("none", "mean"):
        trainer.masks.normalise = normalise
        hyper = {"normalise": normalise}
        records = inspect_pairs(*models, toy.pairs(8), "sparsepo_independent", hyper, trainer.masks,
                                tokenizer=toy.tokenizer, batch_size=size)  # fmt: skip
        weights[normalise] = {name: token_weights(records, name) for name in ("m_u", "m_d")}
    for name, plain in weights["none"].items():
        mean = sum(plain) / len(plain)
        assert weights["mean"][name] == pytest.approx([weight / mean for weight in plain], rel=1e-5)
    assert sum(weights["none"]["m_u"]) / len(weights["none"]["m_u"]) > 2.5


def test_a_step_in_parts_is_the_step_at_once_with_normalised_weights(toy, tmp_path):
    losses = []
    for micro in (None, 2):
        folder = tmp_path / str(micro)
        toy.trainer(folder, "sparsepo_common", hyper={"normalise": "mean"}, micro_batch_size=micro, max_steps=4).train()
        losses.append([row["loss"] for row in toy.rows(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_penalty_is_on_the_weights_before_they_are_divided(toy, tmp_path):
    trainer = toy.trainer(tmp_path, "sparsepo_common", hyper={"l1_u": 0.1, "l1_d": 0.1})
    penalties = []
    for normalise in ("none", "mean"):
        trainer.masks.normalise = normalise
        hyper = {"l1_u": 0.1, "l1_d": 0.1, "normalise": normalise}
        records = inspect_pairs(trainer.policy, trainer.model.reference, toy.pairs(8), "sparsepo_common", hyper,
                                trainer.masks, tokenizer=toy.tokenizer)  # fmt: skip
        penalties.append([record["penalty"] for record in records])
    assert penalties[0] == penalties[1] and penalties[0][0] > 0


def test_the_beta_that_acts_is_beta_times_the_mean_weight():
    assert METHODS["sparsepo_common"].effective_beta({"beta": 0.5}, 4.0) == 2.0
    assert METHODS["sparsepo_common"].effective_beta({}, 4.0) == pytest.approx(0.4)
    assert METHODS["ipo"].effective_beta({"beta": 0.5}, 4.0) == 2.0
    assert METHODS["ipo"].effective_beta({"beta": 0.5, "reduction": "mean"}, 4.0) is None
    for averaging in ("simpo", "orpo", "sepo"):
        assert METHODS[averaging].effective_beta({"beta": 0.5}, 4.0) is None
    assert METHODS["rho"].effective_beta({}, 4.0) is None and METHODS["dpo"].effective_beta({}, None) is None


def test_the_log_has_the_beta_that_acts(toy, tmp_path):
    toy.trainer(tmp_path, "sparsepo_common", hyper={"beta": 0.3}, max_steps=2).train()
    row = toy.rows(tmp_path)[-1]
    assert row["effective_beta"] == pytest.approx(0.3 * row["mask_u_mean"])


def test_a_mask_without_any_weight_is_told_once(toy, tmp_path, capsys):
    trainer = toy.trainer(tmp_path, "sparsepo_common", max_steps=3)
    with torch.no_grad():
        trainer.masks.heads["common"].merge.weight.fill_(-1.0)
    trainer.train()
    assert capsys.readouterr().out.count("all weights m_u are 0, so the reward trains nothing") == 1
