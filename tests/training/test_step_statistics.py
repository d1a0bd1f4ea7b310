"""What losses need of a whole step: the mismatched KL of KTO, beta and pairs of beta-DPO."""

import json
import math
from collections import Counter

import pytest
import torch

from sparsepo.data.collation import TokenPair, collate
from sparsepo.runtime.errors import UserError
from sparsepo.training.step_statistics import MismatchedKL, RunningMargin, mismatched

A, B, C = (TokenPair([prompt], [prompt, 10], [prompt, 20, 21]) for prompt in (1, 2, 3))


def test_a_prompt_gets_the_responses_of_the_next_pair_with_another_prompt():
    made = mismatched([A, A, B, C], context=50)
    assert [(pair.prompt, pair.chosen) for pair in made] == [
        ([1], [2, 10]),
        ([1], [2, 10]),
        ([2], [3, 10]),
        ([3], [1, 10]),
    ]


def test_a_borrowed_response_is_cut_where_the_context_ends():
    long = TokenPair([5, 6, 7], [8], [9])
    assert vars(mismatched([long, A], context=5)[0]) == vars(TokenPair([5, 6, 7], [1, 10], [1, 20]))


def test_pairs_of_one_prompt_have_no_other_responses():
    with pytest.raises(UserError, match="all pairs have the same prompt, and KTO needs responses to other prompts"):
        mismatched([A, A], context=50)


class Margins:
    """Stands for an objective: log-ratios of a pair's responses by its place."""

    def __init__(self, chosen, rejected):
        self.sums = chosen, rejected

    def __call__(self, batch):
        assert batch["look"]
        return [Side(torch.tensor([of[place] for place in batch["pairs"]])[:, None]) for of in self.sums]


class Side:
    def __init__(self, logratio):
        self.logratio, self.valid = logratio, torch.ones_like(logratio, dtype=torch.bool)


def micro(*parts):
    return [{"pairs": part, "weight": 1, "input_ids": torch.zeros(1)} for part in parts]


def running(filtered=0.0, momentum=0.9, scale=0.6):
    return RunningMargin({"beta": 0.5}, {"scale": scale, "momentum": momentum, "filtered": filtered})


def prepared(statistic, margins, *parts, seed=0, trains=True):
    step = micro(*parts)
    statistic.prepare(Margins(margins, [0.0] * len(margins)), step, list, seed, trains)
    return step


def test_beta_grows_with_the_margin_of_the_batch_over_its_running_mean():
    """Means 1 and 3: mu is 1, then (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.81) = 0.39 / 0.19."""
    statistic = running()
    first = prepared(statistic, [0.0, 2.0], (0, 1))
    assert first[0]["step"]["beta"] == pytest.approx(0.5)
    second = prepared(statistic, [2.0, 4.0], (0, 1))
    assert second[0]["step"]["beta"] == pytest.approx(0.5 * (1 + 0.6 * (3 - 0.39 / 0.19)))
    assert second[0]["share"].tolist() == [1.0, 1.0]


def test_beta_never_falls_below_a_thousandth():
    statistic = running()
    prepared(statistic, [50.0, 50.0], (0, 1))
    assert prepared(statistic, [-50.0, -50.0], (0, 1))[0]["step"]["beta"] == 1e-3


def test_a_fifth_is_left_out_and_the_rest_weighs_as_much_as_all():
    step = prepared(running(filtered=0.2), [float(at) for at in range(10)], (3, 1, 4, 0, 5), (9, 2, 6, 8, 7))
    shares = [share for batch in step for share in batch["share"].tolist()]
    assert Counter(shares) == {1.25: 8, 0.0: 2}


def test_how_a_step_is_cut_changes_nothing():
    margins = [0.3 * at**2 for at in range(6)]
    whole = prepared(running(filtered=0.5), margins, tuple(range(6)))
    parts = prepared(running(filtered=0.5), margins, (4, 5), (0, 2), (3, 1))
    by_place = {
        place: share for batch in parts for place, share in zip(batch["pairs"], batch["share"].tolist(), strict=True)
    }
    assert [by_place[place] for place in range(6)] == whole[0]["share"].tolist()
    assert parts[0]["step"] == whole[0]["step"]


def test_outliers_are_left_out_as_often_as_their_gaussian_weights_say():
    """One of two pairs is kept: margins 0 and 2 sigma + ... around mu, drawn 4,000 times."""
    margins, kept = [0.0, 0.0, 3.0], Counter()
    for seed in range(4000):
        step = prepared(running(filtered=0.6), margins, (0, 1, 2), seed=seed)
        kept.update(place for place, share in enumerate(step[0]["share"].tolist()) if share)
    weights = [math.exp(-(((h - 1.0) / math.sqrt(2)) ** 2) / 2) for h in margins]
    for place, weight in enumerate(weights):
        assert kept[place] / 4000 == pytest.approx(weight / sum(weights), abs=0.025)


def test_pairs_that_are_only_looked_at_all_count():
    statistic = running(filtered=0.5)
    step = prepared(statistic, [1.0, 2.0], (0, 1), trains=False)
    assert "share" not in step[0] and "step" not in step[0]
    assert statistic.state["steps"] == 0


@pytest.mark.parametrize("method", ["kto", "beta_dpo"])
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
    pairs = trainer.data_collator.batches.pairs
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
    step = [
        collate(pairs[:3], 0) | {"pairs": (0, 1, 2), "weight": 1},
        collate(pairs[3:], 0) | {"pairs": tuple(range(3, 8)), "weight": 1},
    ]
    statistic.prepare(trainer.model, step, list, 0, True)
    assert sum(ratios) > 0
    assert step[0]["step"]["kl"] == pytest.approx(max(0.0, sum(ratios) / len(ratios)), rel=1e-4)
    assert step[0]["step"] == step[1]["step"]
