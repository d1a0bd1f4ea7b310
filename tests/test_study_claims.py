"""The table of claims: what a verdict says of an interval, and that a number is measured where its runs are."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsepo.evaluation.statistics import Interval

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import study_claims  # noqa: E402


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.05, "holds"),
        (0.001, 0.015, "holds, but less than what matters"),
        (-0.05, 0.01, "does not hold"),  # at most half of what matters
        (-0.08, -0.03, "the opposite holds"),
        (-0.01, 0.05, "cannot be told; about 12 seeds would"),  # 5 seeds (0.03 / 0.02)^2
        (math.nan, math.nan, "cannot be told: one value only"),
    ],
)
def test_a_verdict_follows_the_interval_and_what_matters(low, high, said):
    mean = 0.1 if math.isnan(low) else (low + high) / 2
    assert study_claims.verdict(Interval(mean, low, high), 0.02, seeds=5) == said


def _write_run(folder, method, params, seed, reward, kl, sparsity):
    name = "sft" if method == "sft" else f"{method}/{'-'.join(f'{key}~{params[key]}' for key in params)}/seed~{seed}"
    rng = np.random.default_rng(seed or 0)
    prompts = list(range(40))
    score = {"method": method, "label": method.upper(), "params": params, "seed": seed, "run": name,
             "prompt_ids": prompts, "reward": (reward + rng.normal(0, 0.02, 40)).tolist(),
             "auc": {mask: {"slots_among_slots": {"auc": 0.9}} for mask in sparsity},
             "kl_exact": (kl * rng.uniform(0.9, 1.1, 40)).tolist(),
             "sparsity": {mask: {"chosen": value, "rejected": value} for mask, value in sparsity.items()}}  # fmt: skip
    path = folder / f"scores/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(score))


@pytest.fixture
def study(tmp_path):
    """Three seeds in which SparsePO gains 0.05 over DPO at every KL, and has more zeros in m_d at the larger beta."""
    folder = tmp_path / "planted_study"
    _write_run(folder, "sft", {}, None, 0.5, 0.0, {})
    for seed in range(3):
        for beta, kl in (("1", 0.5), ("0.1", 4.0)):
            reward = 0.5 + 0.05 * math.sqrt(kl)
            _write_run(folder, "dpo", {"beta": beta}, seed, reward, kl, {})
            zeros = {"m_u": 0.2 + 0.01 * seed, "m_d": (0.6 if beta == "1" else 0.1) + 0.01 * seed}
            _write_run(folder, "sparsepo_independent", {"beta": beta}, seed, reward + 0.05, kl, zeros)
    return study_claims.load(tmp_path, "planted_study")


def test_the_difference_at_equal_kl_is_that_which_was_put_in(study):
    value = study.matched("sparsepo_independent", "dpo", **study_claims.OURS)
    assert value.mean == pytest.approx(0.05, abs=0.005) and value.low > 0.03
    assert study.matched("sparsepo_independent", "tdpo2") is None  # no run, no number


def test_zeros_are_compared_between_the_ends_of_the_betas(study):
    rise = study_claims.ends(study, lambda run: study_claims.zeros(run, "m_d"), **study_claims.OURS)
    assert rise.mean == pytest.approx(0.5)


def test_every_claim_has_a_row_and_says_what_was_not_measured(study):
    table = study_claims.claim_table([study]).splitlines()[2:]
    claims = [claim for claim in study_claims.CLAIMS if "planted_study" in claim.studies]
    assert len(table) == len(claims)
    (row,) = [line for line in table if "SparsePO (independent) is above DPO" in line]
    assert row.endswith("| holds |")
    (row,) = [line for line in table if "TDPO v2" in line and "(common)" in line.split("|")[1]]
    assert "not measured | 0.02 reward | - |" in row


def test_the_rate_of_a_method_is_the_one_of_the_largest_frontier_score(tmp_path):
    folder = tmp_path / "imdb_tuning"
    _write_run(folder, "sft", {}, None, 0.5, 0.0, {})
    for rate, reward in (("1e-4", 0.6), ("3e-4", 0.7)):
        _write_run(folder, "dpo", {"beta": "1", "learning_rate": rate}, 100, reward, 2.0, {})
    _write_run(folder, "tdpo2", {"beta": "1", "learning_rate": "1e-4"}, 100, 0.6, 2.0, {})
    _, dpo, _ = study_claims.rates(study_claims.load(tmp_path, "imdb_tuning")).splitlines()
    # the hull is the line to (2, 0.7): half of the gain of 0.2 on the mean up to 2
    assert dpo.startswith("dpo: 3e-4 (0.10") or dpo.startswith("dpo: 3e-4 (0.09")
