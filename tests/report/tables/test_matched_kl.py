import math

import numpy as np
import pandas as pd
import pytest

from sparsepo.report.tables.matched_kl import matched_kl_frame, matched_kl_table, rewards_at, write_matched_kl
from sparsepo.report.tables.render import to_markdown

PROMPTS = 12


def _run(method, reward, kl, beta="0.1", seed=0, **params):
    """A file of scores; a number stands for every prompt."""
    reward, kl = (np.broadcast_to(value, PROMPTS).tolist() for value in (reward, kl))
    params = {} if method == "sft" else {"beta": beta, **params}
    return {"method": method, "label": method.upper(), "params": params, "seed": None if method == "sft" else seed,
            "prompt_ids": list(range(PROMPTS)), "reward": reward, "kl_exact": kl}  # fmt: skip


SFT = _run("sft", 0.5, 0.0)
TDPO1 = [_run("tdpo1", 0.6, 2.0, "1"), _run("tdpo1", 0.6, 5.0)]
DPO = [_run("dpo", 0.6, 1.0, "1"), _run("dpo", 0.9, 9.0, "0.1")]


def _by_kl(frame, method, column="reward", params="-"):
    rows = frame[(frame["method"] == method) & (frame["params"] == params)]
    return {kl: value for kl, value in zip(rows["kl"], rows[column], strict=True) if not math.isnan(kl)}


# --- the reward at a KL


def test_a_reward_is_read_between_neighbours_linearly_in_the_root_of_the_kl():
    """By hand: at KL 4 the root is 2, half of the way from 1 to 3."""
    frame = matched_kl_frame([SFT, *DPO, _run("tdpo2", 0.7, 0.25, "1"), _run("tdpo2", 0.8, 16.0)])
    dpo = _by_kl(frame, "dpo")
    assert dpo[4.0] == pytest.approx((0.6 + 0.9) / 2)
    assert dpo[1.0] == pytest.approx(0.6)
    assert _by_kl(frame, "tdpo2")[1.0] == pytest.approx(0.7 + (1 - 0.5) / (4 - 0.5) * 0.1)


def test_nothing_is_extrapolated():
    frame = matched_kl_frame(
        [SFT, *DPO, _run("tdpo2", 0.7, 0.5, "1"), _run("tdpo2", 0.7, 2.0), _run("simpo", 0.7, 3.0)]
    )
    dpo, tdpo2 = _by_kl(frame, "dpo"), _by_kl(frame, "tdpo2")
    assert (min(dpo), max(dpo)) == (min(tdpo2), max(tdpo2)) == (1.0, 2.0)  # where both have settings below and above
    assert _by_kl(frame, "simpo") == {}  # one setting is no curve


def test_a_kl_that_one_seed_does_not_reach_has_no_reward():
    small = [_run("tdpo2", 0.6, 1.0, "1", seed) for seed in range(2)]
    large = [_run("tdpo2", 0.7, kl, "0.1", seed) for seed, kl in enumerate((3.0, 9.0))]
    frame = matched_kl_frame([SFT, *DPO, *small, *large])
    assert max(_by_kl(frame, "dpo")) == max(_by_kl(frame, "tdpo2")) == 2**1.5


def test_each_seed_is_read_at_its_own_points():
    """Two seeds of one curve that moved differently far: the reward of neither is read off the other's KL."""
    roots = {"1": (1.0, 1.5), "0.1": (2.0, 4.0)}
    runs = [
        _run("dpo", 0.5 + 0.1 * root, root**2, beta, seed) for beta in roots for seed, root in enumerate(roots[beta])
    ]
    others = [_run("tdpo2", 0.6, 1.0, "1"), _run("tdpo2", 0.7, 9.0)]
    assert _by_kl(matched_kl_frame([SFT, *runs, *others]), "dpo")[4.0] == pytest.approx(0.7)


def test_settings_that_differ_in_more_than_beta_are_curves_of_their_own():
    runs = [
        _run("mapo", reward, kl, beta, reading=reading)
        for reading, reward in (("paper", 0.6), ("authors", 0.8))
        for beta, kl in (("1", 0.5), ("0.1", 2.0))
    ]
    frame = matched_kl_frame([SFT, *DPO, *runs])
    assert _by_kl(frame, "mapo", params="reading=paper")[1.0] == pytest.approx(0.6)
    assert _by_kl(frame, "mapo", params="reading=authors")[1.0] == pytest.approx(0.8)


# --- differences


def test_the_difference_is_from_dpo_at_the_same_kl_and_its_mean_over_the_shared_ones():
    frame = matched_kl_frame([SFT, *DPO, _run("tdpo2", 0.7, 1.0, "1"), _run("tdpo2", 0.9, 4.0)])
    differences = _by_kl(frame, "tdpo2", "difference")
    assert len(differences) == 9  # steps of a quarter of a power of 2
    assert differences == pytest.approx({kl: 0.1 + 0.05 * (math.sqrt(kl) - 1) for kl in differences})
    mean = frame[(frame["method"] == "tdpo2") & frame["kl"].isna()]["difference"].item()
    assert mean == pytest.approx(sum(differences.values()) / 9)


def test_without_a_reward_a_kl_or_a_second_method_there_is_no_table():
    without = [run | {"reward": []} for run in (SFT, *DPO)]
    still = [SFT, _run("dpo", 0.6, 0.0, "1"), _run("dpo", 0.6, 0.0)]
    assert all(matched_kl_frame(scores).empty for scores in (without, DPO, still, [SFT]))


def _draw(rng, prompts, seeds, gain):
    """Scores on the curve 0.5 + gain sqrt(KL): noisy rewards and KLs of each prompt, and noisy trainings."""
    hard = rng.normal(0, 0.2, prompts)
    sft = np.array([0.5 + hard, np.zeros(prompts)])
    points = []
    for root in (0.8, 2.0):
        own = []
        for _ in range(seeds):
            moved = root * np.exp(rng.normal(0, 0.1))
            kls = moved**2 * rng.gamma(1.0, 1.0, prompts)
            own.append([0.5 + hard + gain * moved + rng.normal(0, 0.1, prompts), kls])
        points.append(own)
    return sft, np.array(points)


def test_the_interval_covers_the_curve_with_the_error_of_the_measured_kls():
    """400 draws of one training: without the KL's error the interval would cover far less, as 0.3 a root is steep."""
    rng = np.random.default_rng(0)
    covered, naive, truth = 0, 0, 0.5 + 0.3 * math.sqrt(2)
    for _ in range(400):
        sft, points = _draw(rng, 60, 1, 0.3)
        values = rewards_at(points, 2.0)[0]
        covered += abs(values.mean() - truth) < 2.0 * values.std(ddof=1) / math.sqrt(60)
        naive += abs(values.mean() - truth) < 2.0 * points[1, 0, 0].std(ddof=1) / math.sqrt(60)
    assert covered / 400 > 0.92
    assert naive / 400 < 0.90


def test_equal_methods_are_rarely_called_different():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(60):
        scores = [SFT | {"prompt_ids": list(range(40))}]
        for method in ("dpo", "tdpo2"):
            sft, points = _draw(rng, 40, 3, 0.3)
            scores[0] = scores[0] | {"reward": sft[0].tolist(), "kl_exact": sft[1].tolist()}
            for beta, own in zip(("1", "0.1"), points, strict=True):
                for seed, (reward, kl) in enumerate(own):
                    run = _run(method, 0.0, 0.0, beta, seed)
                    scores.append(
                        run | {"prompt_ids": list(range(40)), "reward": reward.tolist(), "kl_exact": kl.tolist()}
                    )
        frame = matched_kl_frame(scores)
        found += (frame[frame["kl"].isna()]["p_holm"] < 0.05).any()
    assert found <= 7


# --- the printed table


def test_the_table_has_a_row_for_each_curve_and_says_what_was_not_reached(tmp_path):
    frame = matched_kl_frame([SFT, *DPO, _run("tdpo2", 0.7, 1.0, "1"), _run("tdpo2", 0.7, 3.0), *TDPO1])
    text = to_markdown(matched_kl_table(frame, "made here"))
    row = next(line for line in text.splitlines() if "TDPO2" in line).split(" | ")
    assert row[-2] == "-" and row[4].startswith("0.700 (0.038)")
    assert "difference from DPO" in text and text.endswith("made here\n")
    paths = {kind: tmp_path / kind for kind in ("csv", "markdown", "latex")}
    write_matched_kl(frame, provenance="made here", **paths)
    assert len(pd.read_csv(paths["csv"])) == len(frame)


def test_an_empty_table_is_a_sentence():
    assert to_markdown(matched_kl_table(matched_kl_frame([SFT]), "made here")).startswith(
        "No KL is reached by two methods"
    )
