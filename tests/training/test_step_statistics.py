"""What losses need of a whole step: the mismatched KL of KTO, beta and pairs of beta-DPO, the shift of BCO."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import TokenPair
from sparsepo.runtime.errors import UserError
from sparsepo.training.step_statistics import MismatchedKL, RunningMargin, RunningReward, mismatch_responses

A, B, C = (TokenPair([prompt], [prompt, 10], [prompt, 20, 21]) for prompt in (1, 2, 3))


def test_a_prompt_gets_the_responses_of_the_next_pair_with_another_prompt():
    made = mismatch_responses([A, A, B, C], context=50)
    assert [(pair.prompt, pair.chosen) for pair in made] == [
        ([1], [2, 10]),
        ([1], [2, 10]),
        ([2], [3, 10]),
        ([3], [1, 10]),
    ]


def test_a_borrowed_response_is_cut_where_the_context_ends():
    long = TokenPair([5, 6, 7], [8], [9])
    assert vars(mismatch_responses([long, A], context=5)[0]) == vars(TokenPair([5, 6, 7], [1, 10], [1, 20]))


def test_pairs_of_one_prompt_have_no_other_responses():
    with pytest.raises(UserError, match="all pairs have the same prompt, and KTO needs responses to other prompts"):
        mismatch_responses([A, A], context=50)


class Margins:
    """Stands for an objective: log-ratios of a pair's chosen response by its index, 0 of all rejected ones."""

    def __init__(self, margins):
        self.margins = margins

    def __call__(self, batch, *, logratios_only):
        assert logratios_only
        chosen = torch.tensor([self.margins[index] for index in batch.pair_indices])
        return chosen, torch.zeros_like(chosen)


def running(filtered=0.0, momentum=0.9, scale=0.6):
    return RunningMargin({"beta": 0.5}, {"scale": scale, "momentum": momentum, "filtered": filtered})


def step_of(statistic, margins, *parts, seed=0, is_training=True):
    """The micro-batches of a step of pairs with these margins, after the statistic was added."""
    batches = [replace(collate_pairs([A] * len(part), 0), pair_indices=part) for part in parts]
    return statistic.add_to_batches(Margins(margins), batches, list, seed, is_training)


def test_beta_grows_with_the_margin_of_the_batch_over_its_running_mean():
    """Means 1 and 3: mu is 1, then (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.81) = 0.39 / 0.19."""
    statistic = running()
    first = step_of(statistic, [0.0, 2.0], (0, 1))
    assert first[0].loss_kwargs["beta"] == pytest.approx(0.5)
    second = step_of(statistic, [2.0, 4.0], (0, 1))
    assert second[0].loss_kwargs["beta"] == pytest.approx(0.5 * (1 + 0.6 * (3 - 0.39 / 0.19)))
    assert second[0].pair_weights.tolist() == [1.0, 1.0]


def test_beta_never_falls_below_a_thousandth():
    statistic = running()
    step_of(statistic, [50.0, 50.0], (0, 1))
    assert step_of(statistic, [-50.0, -50.0], (0, 1))[0].loss_kwargs["beta"] == 1e-3


def test_a_fifth_is_left_out_and_the_rest_weighs_as_much_as_all():
    step = step_of(running(filtered=0.2), [float(at) for at in range(10)], (3, 1, 4, 0, 5), (9, 2, 6, 8, 7))
    shares = [share for batch in step for share in batch.pair_weights.tolist()]
    assert Counter(shares) == {1.25: 8, 0.0: 2}


def test_how_a_step_is_cut_changes_nothing():
    margins = [0.3 * at**2 for at in range(6)]
    whole = step_of(running(filtered=0.5), margins, tuple(range(6)))
    parts = step_of(running(filtered=0.5), margins, (4, 5), (0, 2), (3, 1))
    by_place = {
        place: share
        for batch in parts
        for place, share in zip(batch.pair_indices, batch.pair_weights.tolist(), strict=True)
    }
    assert [by_place[place] for place in range(6)] == whole[0].pair_weights.tolist()
    assert parts[0].loss_kwargs == whole[0].loss_kwargs


def test_outliers_are_left_out_as_often_as_their_gaussian_weights_say():
    """One of two pairs is kept: margins 0 and 2 sigma + ... around mu, drawn 4,000 times."""
    margins, kept = [0.0, 0.0, 3.0], Counter()
    for seed in range(4000):
        step = step_of(running(filtered=0.6), margins, (0, 1, 2), seed=seed)
        kept.update(place for place, share in enumerate(step[0].pair_weights.tolist()) if share)
    weights = [math.exp(-(((h - 1.0) / math.sqrt(2)) ** 2) / 2) for h in margins]
    for place, weight in enumerate(weights):
        assert kept[place] / 4000 == pytest.approx(weight / sum(weights), abs=0.025)


def test_pairs_that_are_only_looked_at_all_count():
    statistic = running(filtered=0.5)
    step = step_of(statistic, [1.0, 2.0], (0, 1), is_training=False)
    assert step[0].pair_weights is None and not step[0].loss_kwargs
    assert statistic.state["steps"] == 0


def test_the_shift_of_bco_is_the_mean_reward_of_all_steps_so_far():
    """Rewards 0.5 * log-ratio of 4 and then 2 responses, half of them rejected ones with 0: 2 / 4, then 5 / 6."""
    statistic = RunningReward({"beta": 0.5})
    assert step_of(statistic, [1.0], (0,), is_training=False)[0].loss_kwargs == {"shift": 0.0}
    first = step_of(statistic, [1.0, 3.0], (0,), (1,))
    assert [batch.loss_kwargs["shift"] for batch in first] == pytest.approx([0.5, 0.5])
    assert step_of(statistic, [6.0], (0,))[0].loss_kwargs["shift"] == pytest.approx(5 / 6)
    assert step_of(statistic, [9.0], (0,), is_training=False)[0].loss_kwargs["shift"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("method", ["kto", "beta_dpo", "bco"])
def test_a_log_does_not_depend_on_how_a_step_is_cut(toy, tmp_path, method):
    hyper = {"beta": 2.0}
    for name, size in (("whole", None), ("cut", 2)):
        toy.trainer(tmp_path / name, method, hyper=hyper, max_steps=4, warmup_ratio=0, micro_batch_size=size).train()
    whole, cut = toy.rows(tmp_path / "whole"), toy.rows(tmp_path / "cut")
    assert whole[-1]["logp_change_chosen"] != 0
    for mine, theirs in zip(whole, cut, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_a_killed_run_goes_on_with_its_running_margin(toy, tmp_path):
    given = {"hyper": {"beta": 2.0}, "max_steps": 6, "warmup_ratio": 0, "checkpoint_every": 2}
    toy.trainer(tmp_path / "whole", "beta_dpo", **given).train()
    toy.run_killed(toy.trainer(tmp_path / "killed", "beta_dpo", killed_at=5, **given))
    state = json.loads((tmp_path / "killed" / "checkpoint-4" / "statistic.json").read_text())
    assert state["steps"] == 4 and state["deviation"] > 0
    toy.trainer(tmp_path / "killed", "beta_dpo", **given).train()
    assert toy.rows(tmp_path / "killed") == toy.rows(tmp_path / "whole")


def test_the_kl_of_kto_is_the_mean_log_ratio_of_borrowed_responses(toy, tmp_path):
    """Worked out again by the models themselves, a sequence at a time."""
    trainer = toy.trainer(tmp_path, "kto", policy=toy.model(seed=1), reference=toy.model(), data=8)
    policy, reference = trainer.policy.eval(), trainer.model.reference
    pairs = trainer.data_collator.maker.pairs
    ratios = []
    for at, pair in enumerate(pairs):
        other = pairs[(at + 1) % len(pairs)]
        for response in (other.chosen, other.rejected):
            ids = torch.tensor([pair.prompt + response])
            with torch.no_grad():
                logps = [one(ids).logits.double().log_softmax(-1)[0, :-1] for one in (policy, reference)]
            places = torch.arange(len(pair.prompt) - 1, ids.shape[1] - 1)
            first, second = (logp[places, torch.tensor(response)].sum() for logp in logps)
            ratios.append(float(first - second))
    statistic = MismatchedKL(pairs, "padded", 48)
    batches = [
        replace(collate_pairs(pairs[:3], 0), pair_indices=(0, 1, 2)),
        replace(collate_pairs(pairs[3:], 0), pair_indices=tuple(range(3, 8))),
    ]
    step = statistic.add_to_batches(trainer.model, batches, list, 0, True)
    assert sum(ratios) > 0
    assert step[0].loss_kwargs["kl"] == pytest.approx(max(0.0, sum(ratios) / len(ratios)), rel=1e-4)
    assert step[0].loss_kwargs == step[1].loss_kwargs
