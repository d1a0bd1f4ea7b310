"""Rounds on toy models: their pairs, their seeds, where they start, and a kill in the middle of one."""

import json
from dataclasses import replace

import pytest
import torch

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.records import Preference
from sparsepo.runtime.errors import UserError
from sparsepo.training.iterations import join_logs, join_records, round_seed
from sparsepo.training.token_scores import add_logps

HYPER = {"beta": 0.2}


def logps_of(model, ids, first):
    """Log-probs of the ids from place `first` on, of one sequence alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return [float(logits[at - 1].log_softmax(-1)[ids[at]]) for at in range(first, len(ids))]


def pairs_from(toy, former, count=20, **changed):
    pairs, dropped = add_logps(former, toy.tokenizer, toy.pairs(count), PreferenceConfig(batch_size=8, **changed))
    assert not dropped
    return pairs


# --- pairs


@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_the_values_of_a_pair_are_the_log_probs_of_the_policy_it_was_sampled_from(toy, layout):
    former = toy.model(seed=1, dtype=torch.float64).eval()
    cut = [Preference("w00 w01", "w02 w03", "w04", chosen_ended=False)]
    pairs, dropped = add_logps(former, toy.tokenizer, toy.pairs(5) + cut, PreferenceConfig(layout=layout))
    assert len(pairs) == 6 and not dropped
    for pair in pairs:
        prompt = toy.tokenizer(pair.prompt)["input_ids"]
        for side in ("chosen", "rejected"):
            ids = toy.tokenizer(getattr(pair, side))["input_ids"]
            ids = ids + [toy.tokenizer.eos_token_id] * getattr(pair, f"{side}_ended")
            expected = logps_of(former, prompt + ids, len(prompt))
            assert getattr(pair, f"{side}_values") == pytest.approx(expected, abs=1e-9), (pair, side)


def test_what_training_cuts_off_a_response_has_0_and_an_unusable_pair_is_counted(toy):
    former = toy.model(seed=1).eval()
    pairs = [Preference("w00 w01", "w02 w03 w04 w05", "w06"), Preference("w00 w01 w02 w03", "w04", "w05")]
    made, dropped = add_logps(
        former, toy.tokenizer, pairs, PreferenceConfig(max_response_tokens=2, max_prompt_tokens=3)
    )
    assert dropped == {"prompt is longer than 3 tokens": 1}
    assert [value == 0 for value in made[0].chosen_values] == [False, False, True, True, True]
    assert [value == 0 for value in made[0].rejected_values] == [False, False]


# --- seeds


def test_no_two_rounds_of_any_runs_share_a_seed_and_no_round_has_that_of_its_run():
    seeds = [round_seed(seed, iteration) for seed in range(20) for iteration in range(0, 20)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds)
    assert [round_seed(seed, 0) for seed in (0, 7)] == [0, 7]
    assert round_seed(3, 2) == round_seed(3, 2)


# --- training


@pytest.mark.parametrize("adapter", [None, {"rank": 2}])
def test_a_round_starts_from_the_policy_of_its_pairs_not_from_the_reference(toy, tmp_path, adapter):
    """At step 1 the loss is (h_prev - (1 - ratio) h_prev - 1 / (2 beta))^2 = (ratio h_prev - 1 / (2 beta))^2."""
    reference, former = toy.model(), toy.model(seed=1)
    pairs = pairs_from(toy, former.eval(), count=8)
    margins = [h_prev(toy, former, reference, pair) for pair in pairs]
    trainer = toy.trainer(
        tmp_path, "inpo", reference=reference, policy=former, data=pairs, hyper=HYPER, adapter=adapter
    )
    trainer.train()
    expected = sum((margin / 3 - 2.5) ** 2 for margin in margins) / len(margins)
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(expected, rel=1e-4)


def h_prev(toy, former, reference, pair):
    prompt = toy.tokenizer(pair.prompt)["input_ids"]
    sums = []
    for text in (pair.chosen, pair.rejected):
        ids = prompt + toy.tokenizer(text)["input_ids"] + [toy.tokenizer.eos_token_id]
        sums.append(sum(logps_of(former, ids, len(prompt))) - sum(logps_of(reference.eval(), ids, len(prompt))))
    return sums[0] - sums[1]


def test_a_policy_that_is_not_the_one_of_the_pairs_is_told_at_the_first_step(toy, tmp_path):
    pairs = pairs_from(toy, toy.model(seed=1).eval())
    trainer = toy.trainer(tmp_path, "inpo", policy=toy.model(seed=2), data=pairs, hyper=HYPER)
    with pytest.raises(UserError, match="policy and the model that the pairs were sampled from differ before the"):
        trainer.train()


def test_pairs_without_log_probs_are_refused_before_the_first_step(toy, tmp_path):
    bare = [replace(pair, chosen_values=None, rejected_values=None) for pair in toy.pairs(20)]
    with pytest.raises(UserError, match="method 'inpo' needs chosen_values and rejected_values"):
        toy.trainer(tmp_path, "inpo", data=bare, hyper=HYPER)


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_round_that_is_killed_ends_as_an_uninterrupted_one(toy, tmp_path, step):
    former = toy.model(seed=1).eval()
    how = {"data": pairs_from(toy, former), "hyper": HYPER, "seed": round_seed(0, 2), "identity": "round 2"}
    how |= {"num_train_epochs": 2, "checkpoint_every": 2, "micro_batch_size": 4}

    def start(folder, **more):
        return toy.trainer(folder, "inpo", policy=toy.model(seed=1), **how, **more)

    straight = start(tmp_path / "straight")
    straight.train()
    toy.run_killed(start(tmp_path / "killed", killed_at=step))
    resumed = start(tmp_path / "killed")
    resumed.train()
    first, second = toy.weights(straight.model), toy.weights(resumed.model)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert toy.rows(tmp_path / "straight") == toy.rows(tmp_path / "killed")
    assert not torch.equal(first["policy.lm_head.weight"], toy.model(seed=1).lm_head.weight), "something was trained"


def test_a_round_is_measured_at_its_end_also_where_no_step_before_is(toy, tmp_path):
    """What the settings of a round without frontier_every say: a step that never comes."""
    former = toy.model(seed=1).eval()
    trainer = toy.trainer(
        tmp_path, "inpo", policy=toy.model(seed=1), data=pairs_from(toy, former), hyper=HYPER, num_train_epochs=2,
        frontier_every=2**31 - 1, measure=lambda model: {"reward": 1.0},
    )  # fmt: skip
    trainer.train()
    assert toy.rows(tmp_path, "frontier.jsonl") == [{"step": 6, "reward": 1.0}]


# --- logs and records of all rounds


def test_logs_are_joined_with_steps_counted_on():
    rounds = [[{"step": 1, "loss": 4.0}, {"step": 3, "loss": 3.0}], [], [{"step": 0, "x": 1}, {"step": 2, "loss": 1.0}]]
    assert list(join_logs(rounds)) == [
        {"step": 1, "loss": 4.0, "iteration": 1},
        {"step": 3, "loss": 3.0, "iteration": 1},
        {"step": 3, "x": 1, "iteration": 3},
        {"step": 5, "loss": 1.0, "iteration": 3},
    ]


def test_the_record_of_a_run_is_that_of_its_last_round_with_the_time_of_all():
    def record(seed, seconds):
        rest = {"code": "c", "inputs": {}, "pairs": {}, "kept_step": 6, "training_seconds": seconds - 1, "git": seed}
        return {"seeds": {"training": seed}, "seconds": seconds} | rest

    made = join_records([record(1, 10.5), record(2, 3.25)])
    assert (made["seconds"], made["training_seconds"], made["git"], made["seeds"]) == (13.75, 11.75, 2, {"training": 2})
    assert [(one["iteration"], one["seeds"]["training"], one["seconds"]) for one in made["rounds"]] == [
        (1, 1, 10.5),
        (2, 2, 3.25),
    ]
    assert "git" not in made["rounds"][0] and json.dumps(made)
