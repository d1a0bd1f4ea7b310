"""Synthetic scores, dynamics, frontier points and token records in the shape of the real files."""

import numpy as np
import pytest

from sparsepo.report.figures.style import save_figure

LABELS = {
    "dpo": "DPO",
    "tdpo1": "TDPO v1",
    "tdpo2": "TDPO v2",
    "simpo": "SimPO",
    "dpop": "DPOP",
    "mapo": "MaPO",
    "sparsepo_common": "SparsePO (common)",
    "sparsepo_independent": "SparsePO (independent)",
}
MASKED = ("mapo", "sparsepo_common", "sparsepo_independent")
BETAS = ("0.1", "0.5")
VOCABULARY = (
    " the film was never dull and its plot felt bright , but one actor seemed wooden . I would"
    " watch this story again because every scene is moving"
).split(" ")[1:]


def _score(method, params, seed, reward, kl, rng):
    prompts = np.repeat(np.arange(24), 4)
    count = len(prompts)
    spread = rng.normal(0, 0.1, 24)[prompts]
    score = {
        "task": "planted",
        "run": "sft" if method == "sft" else "unused",
        "method": method,
        "label": LABELS.get(method, method.upper()),
        "params": params,
        "seed": seed,
        "prompt_ids": prompts.tolist(),
        "reward": (reward + spread + rng.normal(0, 0.15, count)).tolist(),
        "kl_sample": (kl + rng.normal(0, 0.4 * kl + 1e-9, count)).tolist(),
        "kl_exact": (kl * rng.uniform(0.8, 1.2, count)).tolist(),
        "length": rng.integers(12, 40, count).tolist(),
        "entropy": rng.normal(36 - kl, 3, count).tolist(),
        "distinct_1": 0.12,
        "distinct_2": 0.4,
        "auc": {},
        "sparsity": {},
        "logp_change": {},
    }
    if method == "sft":
        score["auc"] = {name: _auc(0.5) for name in ("entropy", "surprisal", "random", "position")}
        score["auc"]["ceiling"] = _auc(1.0)
    else:
        score["auc"] = {"abs_logratio": _auc(0.7)}
        score["logp_change"] = {"chosen": float(rng.normal(-1, 1)), "rejected": -9.0}
    if method in MASKED:
        score["auc"] = {"m_u": _auc(0.94), "m_d": _auc(0.12)} | score["auc"]
        score["sparsity"] = {
            "m_u": {"chosen": 0.3, "rejected": 0.32},
            "m_d": {"chosen": 0.7, "rejected": 0.66},
        }
    return score


def _auc(value):
    """The AUC of a signal in each comparison."""
    names = ("slots_among_slots", "words_among_slots", "slots", "words")
    return {name: {"auc": value, "low": value - 0.02, "high": value + 0.01} for name in names}


def make_scores(labels=LABELS, betas=BETAS, seeds=(0,)):
    """SFT and every method at every beta and seed; a smaller beta buys more reward for more KL."""
    rng = np.random.default_rng(0)
    scores = [_score("sft", {}, None, 0.45, 0.0, rng)]
    for place, method in enumerate(labels):
        for beta in betas:
            kl = (1.0 + 0.4 * place) / float(beta) ** 0.5
            reward = 0.45 + 0.35 * (1 - np.exp(-kl / (1.5 + 0.3 * ((3 * place) % 7))))
            for seed in seeds:
                score = _score(method, {"beta": beta}, seed, reward, kl, rng)
                scores.append(score | {"run": f"{method}/beta~{beta}/seed~{seed}"})
    return scores


def make_training_points(scores, count=6):
    """The way from the SFT point to where each run ended, with noise."""
    rng = np.random.default_rng(1)
    points = {}
    for score in scores:
        if score["method"] != "sft":
            share = np.linspace(0.15, 0.95, count)
            kl = np.mean(score["kl_exact"]) * share
            reward = 0.45 + (np.mean(score["reward"]) - 0.45) * np.sqrt(share)
            reward = reward + rng.normal(0, 0.015, count)
            points[score["run"]] = [
                {"step": 10 * step, "reward": float(r), "kl_sample": float(k), "kl_exact": float(k),
                 "samples": 64}
                for step, (k, r) in enumerate(zip(kl, reward, strict=True))
            ]  # fmt: skip
    return points


def make_dynamics(labels=LABELS, betas=BETAS, seeds=(0,), steps=120):
    """A row a step; masks grow sparser, KL grows faster for small betas."""
    rng = np.random.default_rng(2)
    dynamics = {}
    for place, method in enumerate(labels):
        for beta in betas:
            for seed in seeds:
                rows = []
                for step in range(steps):
                    grown = (1 - np.exp(-step / 40)) / float(beta) ** 0.7
                    row = {"step": step, "loss": 0.7}
                    for side, factor in (("chosen", 1.0), ("rejected", 1.4)):
                        for direction in ("reverse", "forward"):
                            noisy = grown * factor * (1 + 0.3 * place) * rng.uniform(0.7, 1.3)
                            row[f"{direction}_kl_{side}"] = float(noisy)
                        if method in MASKED:
                            level = 0.2 + 0.5 * step / steps + 0.1 * (side == "rejected")
                            row[f"sparsity_u_{side}"] = float(level * rng.uniform(0.8, 1.1))
                            row[f"sparsity_d_{side}"] = float(0.9 - level * rng.uniform(0.8, 1.1))
                    rows.append(row)
                dynamics[f"{method}/beta~{beta}/seed~{seed}"] = rows
    return dynamics


def _response(length, masked, rng):
    words = [VOCABULARY[i] for i in rng.integers(0, len(VOCABULARY), length - 1)]
    polar = {"dull", "bright", "wooden", "moving"}
    planted = [int(word in polar) for word in words] + [0]
    reference = rng.uniform(-4, -0.5, length)
    ratio = rng.normal(0, 0.3, length) + rng.normal(0, 1.5, length) * np.array(planted)
    side = {
        "tokens": [" " + word for word in words] + ["<|endoftext|>"],
        "logps": (reference + ratio).tolist(),
        "ref_logps": reference.tolist(),
        "reverse_kl": (rng.exponential(0.1, length) + 0.5 * np.array(planted)).tolist(),
        "forward_kl": rng.exponential(0.1, length).tolist(),
        "planted": planted,
    }
    if masked:
        weight = np.maximum(0, rng.normal(0.1, 0.2, length) + 0.8 * np.array(planted))
        side["m_u"] = weight.tolist()
        side["m_d"] = np.maximum(0, 0.6 - weight).tolist()
    return side


def make_examples(count=6, longest=30, masked=True):
    """Token records of the planted task."""
    rng = np.random.default_rng(3)
    return [
        {
            "prompt": "I saw the film last night with two friends .",
            "loss": 0.5,
            "reward_chosen": 0.21,
            "reward_rejected": -0.34,
            "chosen": _response(int(rng.integers(10, longest)), masked, rng),
            "rejected": _response(int(rng.integers(10, longest)), masked, rng),
        }
        for _ in range(count)
    ]


@pytest.fixture(name="labels", scope="session")
def _labels():
    return LABELS


@pytest.fixture(name="make_scores", scope="session")
def _make_scores():
    return make_scores


@pytest.fixture(name="make_training_points", scope="session")
def _make_training_points():
    return make_training_points


@pytest.fixture(name="make_dynamics", scope="session")
def _make_dynamics():
    return make_dynamics


@pytest.fixture(name="make_examples", scope="session")
def _make_examples():
    return make_examples


@pytest.fixture
def assert_renders_alike(tmp_path):
    """Draw and save twice: both files must exist, be non-trivial, and be equal byte for byte."""

    def check(draw):
        for name in ("first", "second"):
            save_figure(draw(), tmp_path / name)
        for kind, start in (("svg", b"<svg"), ("png", b"\x89PNG")):
            first = (tmp_path / f"first.{kind}").read_bytes()
            assert first.startswith(start) and len(first) > 500
            assert first == (tmp_path / f"second.{kind}").read_bytes()

    return check
