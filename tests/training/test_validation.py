"""Validation pairs: their loss by hand, no trace of it in the training, and the weights of the lowest loss."""

import copy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.records import Preference
from sparsepo.models import adapters
from sparsepo.models.loading import load_model
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.method_masks import load_masks
from sparsepo.training.reference_cache import ReferenceCache, write_cache

# 20 pairs, three steps an epoch, learned by heart: other pairs get worse again after one to three steps
RUN = {
    "num_train_epochs": 2,
    "learning_rate": 3e-3,
    "warmup_ratio": 0,
    "validate_every": 1,
    "checkpoint_every": 2,
    "identity": "mine",
}


def start(toy, folder, method="dpo", **changed):
    given = RUN | {"validation": toy.pairs(10, seed=12)} | changed
    return toy.trainer(folder, method, **given)


def adapted(toy, folder, method="dpo", **changed):
    policy = toy.model()
    adapter = {"rank": 4, "dropout": 0.3}
    return start(
        toy, folder, method, policy=policy, reference=adapters.clone_sharing_weights(policy), adapter=adapter, **changed
    )


MAKERS = {
    "policy": start,
    "masks": lambda toy, folder, **changed: start(toy, folder, "sparsepo_independent", **changed),
    "random masks": lambda toy, folder, **changed: start(
        toy, folder, "sparsepo_common", hyper={"mask": "random"}, **changed
    ),
    "adapter": adapted,
}


def validated(toy, folder):
    return [row for row in toy.rows(folder) if "validation_loss" in row]


def trained(toy, folder):
    return [row for row in toy.rows(folder) if "loss" in row]


def differing(first, second):
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


# --- what is computed


def dpo_by_hand(toy, policy, reference, pairs, beta=0.1):
    """Mean -log sigmoid(beta h) and how often h > 0, response by response from the models' own logits."""

    def logp(model, prompt, response):
        ids = toy.tokenizer.convert_tokens_to_ids
        known, said = ids(prompt.split()), [*ids(response.split()), toy.tokenizer.eos_token_id]
        with torch.no_grad():
            logps = model(torch.tensor([known + said])).logits[0].double().log_softmax(-1)
        return sum(float(logps[len(known) + at - 1, token]) for at, token in enumerate(said))

    margins = []
    for pair in pairs:
        better, worse = (
            logp(policy, pair.prompt, text) - logp(reference, pair.prompt, text)
            for text in (pair.chosen, pair.rejected)
        )
        margins.append(better - worse)
    h = torch.tensor(margins, dtype=torch.float64)
    return float(-F.logsigmoid(beta * h).mean()), float((h > 0).double().mean())


@pytest.mark.parametrize("size", [{}, {"micro_batch_size": 2}, {"micro_batch_tokens": 60}, {"layout": "padded"}])
def test_the_validation_loss_is_that_of_dpo_by_hand(toy, tmp_path, size):
    trainer = start(toy, tmp_path, **size)
    trainer.train()
    first, last = validated(toy, tmp_path)[0], validated(toy, tmp_path)[-1]
    policy, reference = trainer.policy.eval(), trainer.model.reference
    loss, accuracy = dpo_by_hand(toy, policy, reference, toy.pairs(10, seed=12))
    assert first["validation_loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert last["validation_loss"] == pytest.approx(loss, rel=1e-4) and abs(loss - 0.693) > 1e-3
    assert last["validation_accuracy"] == accuracy


def test_the_validation_loss_contains_the_penalty_of_the_masks(toy, tmp_path):
    hyper = {"l1_u": 0.05, "l1_d": 0.02}
    trainer = start(toy, tmp_path, "sparsepo_independent", hyper=hyper, num_train_epochs=1)
    trainer.train()
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(10, seed=12), 512, 512, 48).pairs
    models = trainer.policy.eval(), trainer.model.reference
    found = inspect_pairs(*models, pairs, trainer.method, hyper, trainer.masks)
    assert min(record["penalty"] for record in found) > 0.01
    mean = sum(record["loss"] for record in found) / len(found)
    assert validated(toy, tmp_path)[-1]["validation_loss"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("every, steps", [(1, [0, 1, 2, 3, 4, 5, 6]), (4, [0, 4, 6]), (9, [0, 6])])
def test_it_is_validated_before_the_first_step_at_the_interval_and_after_the_last(toy, tmp_path, every, steps):
    start(toy, tmp_path, validate_every=every).train()
    assert [row["step"] for row in validated(toy, tmp_path)] == steps
    assert all(row.keys() == {"step", "validation_loss", "validation_accuracy"} for row in validated(toy, tmp_path))


@pytest.mark.parametrize("kind", MAKERS)
def test_validation_leaves_no_trace_in_the_training(toy, tmp_path, kind):
    """Random masks and dropout use the random state that validation must not."""
    plain = MAKERS[kind](toy, tmp_path / "plain", validate_every=0, validation=[])
    looked = MAKERS[kind](toy, tmp_path / "looked")
    for trainer in (plain, looked):
        trainer.train()
    assert trained(toy, tmp_path / "looked") == toy.rows(tmp_path / "plain")
    assert differing(toy.weights(looked.model), toy.weights(plain.model)) == []


def test_random_masks_are_the_same_at_each_validation(toy, tmp_path):
    MAKERS["random masks"](toy, tmp_path, learning_rate=1e-30).train()
    assert len({row["validation_loss"] for row in validated(toy, tmp_path)}) == 1


@pytest.mark.parametrize("method, kinds", [("dpo", ["logps"]), ("mapo", ["states", "weights~paper~mlp+residual"])])
def test_a_run_on_a_cache_validates_as_one_that_runs_its_reference(toy, tmp_path, method, kinds):
    """In float64, as Adam blows up the rounding of a gradient that is zero."""
    reference = toy.model(dtype=torch.float64)
    hyper = {} if method == "dpo" else {"activation_sites": ["mlp", "residual"]}
    given = {"reference": reference, "log_kl": False, "hyper": hyper}
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(20), 512, 512, 48).pairs
    for kind in kinds:
        write_cache(reference, pairs, kind, PreferenceConfig(), tmp_path / kind, "this")
    cache = [ReferenceCache.open(tmp_path / kind, "this") for kind in kinds]
    for name, known in (("online", ()), ("cached", cache)):
        start(toy, tmp_path / name, method, policy=toy.model(dtype=torch.float64), caches=known, **given).train()
    for mine, theirs in zip(*(validated(toy, tmp_path / name)[1:] for name in ("online", "cached")), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)


# --- the best


@pytest.mark.parametrize("kind", MAKERS)
def test_the_best_weights_are_those_after_the_step_of_lowest_validation_loss(toy, tmp_path, kind):
    trainer, kept = MAKERS[kind](toy, tmp_path / "work", checkpoint_selection="best"), {}
    step = trainer.training_step

    def keep(model, *rest, **named):  # what a step starts from is what the one before it left
        kept[trainer.state.global_step] = copy.deepcopy(toy.weights(trainer.model))
        return step(model, *rest, **named)

    trainer.training_step = keep
    trainer.train()
    rows = validated(toy, tmp_path / "work")[1:]
    best = min(rows, key=lambda row: row["validation_loss"])["step"]
    assert trainer.kept_step == best < 5
    assert differing(toy.weights(trainer.model), kept[best]) == []
    assert differing(toy.weights(trainer.model), kept[5]) != []


def test_what_is_saved_is_the_best(toy, tmp_path):
    trainer = MAKERS["masks"](toy, tmp_path / "work", checkpoint_selection="best")
    trainer.train()
    trainer.save(tmp_path / "out")
    masks = load_masks(tmp_path / "out", trainer.model.reference)
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(10, seed=12), 512, 512, 48).pairs
    found = inspect_pairs(load_model(tmp_path / "out"), trainer.model.reference, pairs, trainer.method, {}, masks)
    lowest = min(row["validation_loss"] for row in validated(toy, tmp_path / "work")[1:])
    assert sum(record["loss"] for record in found) / len(found) == pytest.approx(lowest, rel=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_killed_run_keeps_the_best_of_the_uninterrupted_one(toy, tmp_path, kind, step):
    straight = MAKERS[kind](toy, tmp_path / "straight", checkpoint_selection="best")
    straight.train()
    toy.run_killed(MAKERS[kind](toy, tmp_path / "killed", checkpoint_selection="best", killed_at=step))
    resumed = MAKERS[kind](toy, tmp_path / "killed", checkpoint_selection="best")
    resumed.train()
    assert toy.rows(resumed.folder) == toy.rows(straight.folder)
    assert resumed.kept_step == straight.kept_step
    assert differing(toy.weights(resumed.model), toy.weights(straight.model)) == []


def test_a_run_that_had_finished_keeps_its_best_too(toy, tmp_path):
    found = []
    for _ in range(2):
        trainer = start(toy, tmp_path, checkpoint_selection="best")
        trainer.train()
        found.append((trainer.kept_step, toy.weights(trainer.model), toy.rows(tmp_path)))
    assert found[0][0] == found[1][0] and found[0][2] == found[1][2]
    assert differing(found[0][1], found[1][1]) == []


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_last_step_is_kept_unless_the_best_is_asked_for(toy, tmp_path, keep):
    for _ in range(2):  # also when it had finished
        trainer = start(toy, tmp_path, checkpoint_selection=keep)
        trainer.train()
        assert (trainer.kept_step == 6) == (keep == "last")
    assert (tmp_path / "checkpoint-6" / "best.safetensors").exists() == (keep == "best")


def test_a_checkpoint_whose_best_weights_were_cut_is_dropped(toy, tmp_path, capsys):
    straight = start(toy, tmp_path / "straight", checkpoint_selection="best")
    straight.train()
    toy.run_killed(start(toy, tmp_path / "killed", checkpoint_selection="best", killed_at=5))
    path = tmp_path / "killed" / "checkpoint-4" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    resumed = start(toy, tmp_path / "killed", checkpoint_selection="best")
    resumed.train()
    assert f"{path.parent}: half-written" in capsys.readouterr().out
    assert differing(toy.weights(resumed.model), toy.weights(straight.model)) == []


# --- refusals


def test_the_best_needs_an_interval_to_look_for_it():
    with pytest.raises(ValidationError, match="'best' is by the loss of validation pairs: give validate_every"):
        PreferenceConfig(checkpoint_selection="best")


def test_validation_needs_a_usable_pair(toy, tmp_path):
    bad = [Preference("w01", "w02", "w02")]
    message = "validate_every is 1, and no validation pair is usable; dropped: .*responses are equal"
    with pytest.raises(UserError, match=message):
        start(toy, tmp_path, validation=bad)


def test_a_cache_of_training_pairs_is_not_enough_to_validate(toy, tmp_path):
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(20), 512, 512, 48).pairs
    write_cache(toy.model(), pairs, "states", PreferenceConfig(), tmp_path / "states", "this")
    cache = [ReferenceCache.open(tmp_path / "states", "this")]
    with pytest.raises(UserError, match="validation runs the reference on pairs that a cache .* does not hold"):
        start(toy, tmp_path, policy=toy.model(), caches=cache)
    start(toy, tmp_path / "simpo", "simpo", policy=toy.model(), caches=[], log_kl=False, max_steps=1).train()
    assert len(validated(toy, tmp_path / "simpo")) == 2


def test_a_validation_loss_that_is_not_a_number_stops_the_run(toy, tmp_path):
    """The embedding of a word that no training pair has is not a number; the output head is another matrix."""
    reference = toy.model(tie_word_embeddings=False)
    reference.get_input_embeddings().weight.data[toy.tokenizer.convert_tokens_to_ids("w59")] = float("nan")
    data = [pair for pair in toy.pairs(60) if "w59" not in pair.prompt + pair.chosen + pair.rejected]
    validation = [Preference("w01", "w03 w59 w04", "w05")]
    trainer = start(toy, tmp_path, reference=reference, data=data, validation=validation)
    with pytest.raises(UserError, match="^the validation loss is nan"):
        trainer.train()
