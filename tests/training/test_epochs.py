"""Pairs that belong to one epoch each: what a step sees, in which order, and what is refused."""

from dataclasses import replace

import pytest
import torch

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Preference
from sparsepo.runtime.errors import UserError
from sparsepo.training.reference_cache import ReferenceCache, write_cache


def fresh(toy, epochs=3, count=20):
    """Other pairs for each epoch, written into the file in a muddle."""
    made = [replace(pair, epoch=epoch) for epoch in range(epochs) for pair in toy.pairs(count, seed=epoch)]
    return made[::2] + made[1::2]


def places(trainer):
    """Places of the pairs of each step."""
    return [
        [index for batch in step["micro_batches"] for index in batch.pair_indices]
        for step in trainer.get_train_dataloader()
    ]


def test_each_epoch_sees_its_own_pairs_once_and_no_other(toy, tmp_path):
    pairs = fresh(toy)
    seen = sum(places(toy.trainer(tmp_path, data=pairs, num_train_epochs=3, batch_size=4)), [])
    assert [pairs[at].epoch for at in seen] == [0] * 20 + [1] * 20 + [2] * 20
    assert sorted(seen) == list(range(60))


def test_a_run_takes_the_steps_of_all_epochs_and_no_more(toy, tmp_path):
    toy.trainer(tmp_path, data=fresh(toy), num_train_epochs=3).train()
    assert [row["step"] for row in toy.rows(tmp_path)] == list(range(1, 9))  # 60 pairs by 8


def test_pairs_of_an_epoch_are_shuffled_by_the_seed_alone(toy, tmp_path):
    orders = []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)
        orders.append(places(toy.trainer(tmp_path, data=fresh(toy), num_train_epochs=3, seed=seed)))
    assert orders[0] == orders[1] != orders[2]
    (first, *_) = places(toy.trainer(tmp_path, data=fresh(toy), num_train_epochs=3, batch_size=20))
    assert first != sorted(first)


def test_the_same_pairs_in_every_epoch_are_an_ordinary_run(toy, tmp_path):
    """An epoch is one batch, so that the order within it is no matter."""
    pairs = toy.pairs(8)
    given = {"num_train_epochs": 3, "learning_rate": 1e-2}
    toy.trainer(tmp_path / "plain", reference=toy.model(dtype=torch.float64), data=pairs, **given).train()
    again = [replace(pair, epoch=epoch) for epoch in range(3) for pair in pairs]
    toy.trainer(tmp_path / "again", reference=toy.model(dtype=torch.float64), data=again, **given).train()
    for mine, theirs in zip(toy.rows(tmp_path / "again"), toy.rows(tmp_path / "plain"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("step", [1, 3, 6, 8])
def test_a_killed_run_ends_as_an_uninterrupted_one(toy, tmp_path, step):
    given = {
        "data": fresh(toy),
        "num_train_epochs": 3,
        "micro_batch_size": 4,
        "checkpoint_every": 2,
        "identity": "mine",
    }
    straight = toy.trainer(tmp_path / "straight", **given)
    straight.train()
    toy.run_killed(toy.trainer(tmp_path / "killed", killed_at=step, **given))
    resumed = toy.trainer(tmp_path / "killed", **given)
    resumed.train()
    assert toy.rows(resumed.folder) == toy.rows(straight.folder)
    expected = toy.weights(straight.model)
    assert all(torch.equal(value, expected[name]) for name, value in toy.weights(resumed.model).items())


def test_a_cache_of_all_pairs_serves_their_epochs(toy, tmp_path):
    reference, pairs = toy.model(dtype=torch.float64), fresh(toy, epochs=2)
    online = toy.trainer(tmp_path / "online", reference=reference, data=pairs, num_train_epochs=2, log_kl=False)
    token_pairs = online.data_collator.maker.pairs
    write_cache(reference, token_pairs, "logps", PreferenceConfig(), tmp_path / "logps", "this")
    cache = [ReferenceCache.open(tmp_path / "logps", "this")]
    policy = toy.model(dtype=torch.float64)
    cached = toy.trainer(tmp_path / "cached", policy=policy, caches=cache, data=pairs, num_train_epochs=2, log_kl=False)
    for trainer in (online, cached):
        trainer.train()
    for mine, theirs in zip(toy.rows(tmp_path / "online"), toy.rows(tmp_path / "cached"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-6)


def test_a_pair_that_cannot_train_is_dropped_from_its_epoch_alone(toy, tmp_path):
    pairs = fresh(toy, epochs=2)
    pairs.insert(3, Preference("w01", "w02", "w02", epoch=1))
    trainer = toy.trainer(tmp_path, data=pairs, num_train_epochs=2, batch_size=4)
    kept = [pair for pair in pairs if pair.chosen != pair.rejected]
    assert [kept[at].epoch for at in sum(places(trainer), [])] == [0] * 20 + [1] * 20


@pytest.mark.parametrize(
    "labels, epochs, sentence",
    [
        ([0, 1, 2], 2, "epochs 0, 1, 2, and training.num_train_epochs is 2: there must be pairs for each of 0 ... 1"),
        ([0, 1], 3, "epochs 0, 1, and training.num_train_epochs is 3: there must be pairs for each of 0 ... 2"),
        ([1, 2], 2, "epochs 1, 2, and training.num_train_epochs is 2"),
        ([0, 1], 0.5, "epochs 0, 1, and training.num_train_epochs is 0.5: there must be pairs for each of 0 ... 0"),
        ([None, 0, 1], 2, "20 of 60 pairs have no 'epoch': all must have one, or none"),
    ],
)
def test_pairs_of_other_epochs_than_are_trained_are_refused(toy, tmp_path, labels, epochs, sentence):
    pairs = [replace(pair, epoch=label) for label in labels for pair in toy.pairs(20)]
    with pytest.raises(UserError, match=sentence.replace("...", r"\.\.\.")):
        toy.trainer(tmp_path, data=pairs, num_train_epochs=epochs)


def test_a_part_of_the_last_epoch_is_a_part_of_its_pairs(toy, tmp_path):
    toy.trainer(tmp_path, data=fresh(toy, epochs=2, count=16), num_train_epochs=1.5).train()
    assert len(toy.rows(tmp_path)) == 3  # 16 + 8 pairs by 8
