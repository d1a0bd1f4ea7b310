"""Preference training: what every method must do at step 0 and after, what is logged, what is learned."""

import copy
import math
import random
from statistics import fmean

import pytest
import torch

from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.records import Preference
from sparsepo.methods.registry import METHODS as TABLE
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.method_masks import load_masks

METHODS = {name: row for name, row in TABLE.items() if row.trainer == "pairs"}
LEARNED = [name for name, row in METHODS.items() if row.masks.get("mask") == "layers"]
MASKED = [name for name in METHODS if METHODS[name].loss == "sparsepo"]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def encoded(toy, count=20):
    return encode_pairs(Encoder(toy.tokenizer), toy.pairs(count), 512, 512, 48).pairs


# --- every method


@pytest.mark.parametrize("method", METHODS)
def test_a_method_moves_the_policy_and_leaves_the_reference_bit_for_bit(toy, tmp_path, method):
    reference = toy.model()
    trainer = toy.trainer(tmp_path, method, reference=reference, max_steps=3)
    before, policy = toy.weights(reference), toy.weights(trainer.policy)
    trainer.train()
    assert same(toy.weights(reference), before)
    moved = toy.weights(trainer.policy)
    assert all(not torch.equal(moved[name], policy[name]) for name in policy if name.endswith("weight"))
    rows = toy.rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    for row in rows:
        assert row["reward_margin"] == pytest.approx(row["reward_chosen"] - row["reward_rejected"], abs=1e-5)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].needs_reference])
def test_rewards_and_kl_are_exactly_zero_at_the_first_step(toy, tmp_path, method):
    toy.trainer(tmp_path, method, max_steps=1).train()
    row = toy.rows(tmp_path)[0]
    zero = [name for name in row if name.startswith(("reward_", "reverse_kl_", "forward_kl_", "logp_change_"))]
    assert len(zero) == 10
    assert {name: row[name] for name in zero} == dict.fromkeys(zero, 0.0)


@pytest.mark.parametrize("method", ["dpo", "tdpo1", "tdpo2", "dpop", "beta_dpo", *MASKED])
def test_the_first_loss_is_log_2(toy, tmp_path, method):
    toy.trainer(tmp_path, method, max_steps=1).train()
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_second_line_of_the_log_is_what_a_look_inside_the_pairs_tells(toy, tmp_path):
    """All pairs are one batch, so that the second step starts from the weights after the first."""
    trainer = toy.trainer(tmp_path, "sparsepo_independent", data=8, max_steps=2, warmup_ratio=0, learning_rate=1e-2)
    kept = {}

    def keep(model, *rest, **named):
        if trainer.state.global_step == 1:
            kept.update(policy=copy.deepcopy(trainer.policy), masks=copy.deepcopy(trainer.masks))
        return step(model, *rest, **named)

    step, trainer.training_step = trainer.training_step, keep
    trainer.train()
    found = inspect_pairs(kept["policy"], trainer.model.reference, encoded(toy, 8), trainer.method, {}, kept["masks"])
    row = toy.rows(tmp_path)[1]

    def mean(of):
        return pytest.approx(sum(map(of, found)) / len(found), rel=1e-4, abs=1e-6)

    assert row["loss"] == mean(lambda record: record["loss"])
    assert row["reward_accuracy"] == mean(lambda record: record["reward_chosen"] > record["reward_rejected"])
    for side in ("chosen", "rejected"):
        assert abs(row[f"reward_{side}"]) > 1e-4
        assert row[f"reward_{side}"] == mean(lambda record, side=side: record[f"reward_{side}"])
        for term in ("reverse_kl", "forward_kl"):
            assert row[f"{term}_{side}"] == mean(lambda record, side=side, term=term: sum(record[side][term]))
        for letter in "ud":
            assert row[f"sparsity_{letter}_{side}"] == mean(
                lambda record, side=side, name=f"m_{letter}": record[side][name].count(0) / len(record[side][name])
            )
        assert row[f"logp_change_{side}"] == mean(
            lambda record, side=side: sum(record[side]["logps"]) - sum(record[side]["ref_logps"])
        )


# --- masks


@pytest.mark.parametrize("method", LEARNED)
def test_learned_heads_move(toy, tmp_path, method):
    trainer = toy.trainer(tmp_path, method, max_steps=3)
    before = toy.weights(trainer.masks)
    trainer.train()
    after = toy.weights(trainer.masks)
    assert before and all(not torch.equal(after[name], value) for name, value in before.items())


def test_mapo_has_nothing_to_learn(toy, tmp_path):
    trainer = toy.trainer(tmp_path, "mapo")
    assert not list(trainer.masks.parameters())
    assert len(trainer.create_optimizer().param_groups) == 1


@pytest.mark.parametrize("hyper, has_negative", [({}, True), ({"reading": "authors"}, False)])
def test_the_share_of_negative_weights_is_logged_where_there_can_be_some(toy, tmp_path, hyper, has_negative):
    """Against the weights themselves, of all pairs at the first step."""
    pairs = toy.pairs(8)
    trainer = toy.trainer(tmp_path, "mapo", hyper=hyper, data=pairs, batch_size=8, max_steps=1)
    trainer.train()
    row = toy.rows(tmp_path)[0]
    names = {f"negative_{letter}_{side}" for letter in "ud" for side in ("chosen", "rejected")}
    assert names & row.keys() == (names if has_negative else set())
    if has_negative:
        token_pairs = encode_pairs(Encoder(toy.tokenizer), pairs, 512, 512, 48).pairs
        records = inspect_pairs(trainer.policy, trainer.model.reference, token_pairs, "mapo", hyper)
        for side in ("chosen", "rejected"):
            shares = [
                sum(weight < 0 for weight in record[side]["m_u"]) / len(record[side]["m_u"]) for record in records
            ]
            assert row[f"negative_u_{side}"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
            assert 0.2 < row[f"negative_u_{side}"] < 0.8


@pytest.mark.parametrize("method", ["sparsepo_common", "sparsepo_independent"])
@pytest.mark.parametrize("seed", range(10))
def test_masks_start_with_weights_near_one(toy, tmp_path, method, seed):
    toy.trainer(tmp_path, method, seed=seed, max_steps=1).train()
    row = toy.rows(tmp_path)[0]
    for letter in "ud":
        assert 0.8 < row[f"mask_{letter}_mean"] < 1.2
        for side in ("chosen", "rejected"):
            assert row[f"sparsity_{letter}_{side}"] < 0.05


def test_the_heads_have_a_learning_rate_and_a_weight_decay_of_their_own(toy, tmp_path):
    given = {"learning_rate": 2e-3, "weight_decay": 0.3, "mask_learning_rate": 5e-2, "mask_weight_decay": 0.7}
    trainer = toy.trainer(tmp_path, "sparsepo_common", **given)
    policy, linear, others = trainer.create_optimizer().param_groups
    assert (policy["lr"], policy["weight_decay"], linear["lr"], linear["weight_decay"]) == tuple(given.values())
    assert (others["lr"], others["weight_decay"]) == (5e-2, 0.0)
    heads = trainer.masks.heads["common"]
    decayed = [*(layer.weight for layer in heads.layer), heads.merge.weight]
    assert {id(p) for p in linear["params"]} == set(map(id, decayed))
    biases_and_norm = [*(layer.bias for layer in heads.layer), heads.norm.weight, heads.norm.bias]
    assert {id(p) for p in others["params"]} == set(map(id, biases_and_norm))
    assert {id(p) for p in policy["params"]} == {id(p) for p in trainer.policy.parameters()}


def test_a_weight_decay_of_the_heads_in_a_grid_replaces_that_of_the_training_section(toy, tmp_path):
    hyper = {"beta": 0.5, "mask_weight_decay": 0.7}
    trainer = toy.trainer(tmp_path / "work", "sparsepo_common", hyper=hyper, weight_decay=0.3, mask_weight_decay=0.2)
    assert [group["weight_decay"] for group in trainer.create_optimizer().param_groups] == [0.3, 0.7, 0.0]
    trainer.save(tmp_path / "out")
    assert load_masks(tmp_path / "out", trainer.model.reference) is not None
    with pytest.raises(UserError, match="'mask_weight_decay' of 'dpo' is not read where mask is 'none'"):
        toy.trainer(tmp_path, hyper={"mask_weight_decay": 0.7})
    with pytest.raises(UserError, match="'mask_weight_decay' of 'sparsepo_common' must be greater than or equal to 0"):
        toy.trainer(tmp_path, "sparsepo_common", hyper={"mask_weight_decay": -1})


@pytest.mark.parametrize("moving", ["policy", "masks"])
def test_each_learning_rate_moves_its_own_weights(toy, tmp_path, moving):
    rates = {"policy": "learning_rate", "masks": "mask_learning_rate"}
    still = ({"policy", "masks"} - {moving}).pop()
    trainer = toy.trainer(tmp_path, "sparsepo_common", hyper={"l1_u": 0.1}, max_steps=3, **{rates[still]: 1e-30})
    before = {name: toy.weights(getattr(trainer, name)) for name in rates}
    trainer.train()
    change = {
        name: max(
            float((value - before[name][key]).abs().max()) for key, value in getattr(trainer, name).state_dict().items()
        )
        for name in rates
    }
    assert change[still] < 1e-20 and change[moving] > 1e-4


def test_the_l1_of_the_masks_is_logged_and_is_part_of_the_loss(toy, tmp_path):
    toy.trainer(tmp_path, "sparsepo_independent", hyper={"l1_u": 0.01, "l1_d": 0.02}, max_steps=1).train()
    row = toy.rows(tmp_path)[0]
    assert row["mask_l1"] > 0.05
    assert row["loss"] == pytest.approx(math.log(2) + row["mask_l1"], abs=1e-5)


# --- learning


def telling(seed):
    """64 pairs of random words; after w57 the chosen response has w58 and the rejected one w59."""
    draw = random.Random(seed)

    def words(least, most=None):
        return [f"w{draw.randrange(50):02}" for _ in range(draw.randint(least, most or least))]

    def response(last):
        return " ".join([*words(1, 4), "w57", last, *words(1, 3)])

    return [Preference(" ".join(words(3)), response("w58"), response("w59")) for _ in range(64)]


def test_dpo_learns_which_word_is_preferred(toy, tmp_path):
    toy.trainer(tmp_path, data=telling(0), num_train_epochs=6, learning_rate=1e-2).train()
    first, *_, last = toy.rows(tmp_path)
    assert first["reward_accuracy"] == 0 and last["reward_accuracy"] == 1
    assert last["loss"] < 0.3 and last["logp_change_chosen"] > last["logp_change_rejected"]


@pytest.mark.parametrize("method", ["sparsepo_common", "sparsepo_independent"])
def test_a_learned_mask_weighs_the_words_that_tell_responses_apart(toy, tmp_path, method):
    """Those words start with the mean weight of the others and end well above it."""
    rates = {"learning_rate": 2e-3, "mask_learning_rate": 3e-2}
    data = telling(0)
    trainer = toy.trainer(tmp_path, method, data=data, num_train_epochs=20, batch_size=16, hyper={"beta": 0.3}, **rates)
    pairs = encode_pairs(Encoder(toy.tokenizer), data, 512, 512, 48).pairs
    words = toy.tokenizer.convert_tokens_to_ids(["w58", "w59"])

    def contrast():
        """Mean weight of the two words over the mean weight of the others."""
        weights = {True: [], False: []}
        for pair, found in zip(
            pairs, inspect_pairs(trainer.policy, trainer.model.reference, pairs, method, {}, trainer.masks), strict=True
        ):
            for side in ("chosen", "rejected"):
                for token, weight in zip(getattr(pair, side), found[side]["m_u"], strict=True):
                    weights[token in words].append(weight)
        return fmean(weights[True]) / fmean(weights[False])

    before = contrast()
    trainer.train()
    assert before == pytest.approx(1.0, abs=0.1)
    assert contrast() > 1.3
