"""What is said of masks that do not beat random weights, or have no such control."""

import numpy as np
import pytest

from sparsepo.report.tables.controls import control_cautions


def run(method, gain, label=None, **params):
    """Scores of 40 prompts at a KL of 1; the noise of the prompts is common to all runs, that of the run is small."""
    noise = np.random.default_rng(0).normal(size=40)
    own = np.random.default_rng(sum(map(ord, method))).normal(scale=0.05, size=40)
    rewards = noise if method == "sft" else noise + gain + own
    kl = [0.0 if method == "sft" else 1.0] * 40
    params = {} if method == "sft" else {"beta": "0.1"} | params
    scores = {"method": method, "label": label or method, "params": params, "seed": 0, "prompt_ids": list(range(40))}
    return scores | {"reward": rewards.tolist(), "kl_exact": kl}


SFT, RANDOM = run("sft", 0), run("sparsepo_random", 0.5)


def test_a_mask_that_beats_random_weights_is_not_mentioned():
    assert control_cautions([SFT, RANDOM, run("sparsepo_common", 0.9)]) == []


@pytest.mark.parametrize("method", ["sparsepo_common", "sparsepo_independent", "mapo"])
def test_a_mask_that_does_not_beat_random_weights_is_said_with_the_difference(method):
    """Half the difference of the gains at the only setting: 0.5 (0.4 - 0.5) = -0.05."""
    (text,) = control_cautions([SFT, RANDOM, run(method, 0.4, label="Masked")])
    start = "Masked: its frontier score is not above that of random weights (difference -0.0"
    assert text.startswith(start) and text.endswith("]).")
    low, high = map(float, text.split("[")[1].rstrip("]).").split(", "))
    assert -0.08 < low < high < -0.02


def test_a_difference_that_may_be_zero_is_not_above():
    (text,) = control_cautions([SFT, RANDOM, run("sparsepo_common", 0.48)])
    low, high = map(float, text.split("[")[1].rstrip("]).").split(", "))
    assert low <= 0 < high


def test_masks_without_a_random_control_in_the_same_loss_are_named():
    texts = control_cautions([SFT, run("dpo", 0.5, mask="random"), run("mapo", 1), run("sparsepo_common", 1)])
    assert texts == [
        "mapo, sparsepo_common: no run has random weights in the same loss, so it is not known whether it matters "
        "which tokens weigh more; add sparsepo_random or `mask: random`."
    ]


def test_a_random_mask_of_the_same_loss_is_a_control_too():
    assert control_cautions([SFT, run("dpo", 0.1, mask="random"), run("hinge", 0.5, mask="layers")]) != []
    controls = run("sparsepo_independent", 0.1, mask="random")
    assert control_cautions([SFT, controls, run("sparsepo_common", 0.5)]) == []


def test_methods_without_masks_need_no_control():
    assert control_cautions([SFT, run("dpo", 0.5), run("sparsepo_entropy", 0.2), run("sepo", 0.1)]) == []


def test_without_a_reward_only_a_missing_control_is_said():
    silent = [score | {"reward": []} for score in (SFT, RANDOM, run("mapo", 1))]
    assert control_cautions(silent) == []
    (text,) = control_cautions([silent[0], silent[2]])
    assert "no run has random weights" in text
