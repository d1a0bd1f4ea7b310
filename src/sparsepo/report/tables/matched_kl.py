"""Rewards of methods at the same KL to the reference, so that no method is judged at its favourite beta."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsepo.evaluation.significance import LEVEL, holm
from sparsepo.evaluation.statistics import MIN_PROMPTS, SeedSample, difference_estimate, sample_interval
from sparsepo.report.frontier_score import Runs, runs_by_setting
from sparsepo.report.run_names import params_text
from sparsepo.report.tables.render import STAR, Block, Cell, Table, format_number, mean_with_interval, write_table

BASELINE = "dpo"
"""The method whose reward at the same KL is subtracted: its first curve, or the first of all where it has none."""
SWEPT = "beta"
"""The parameter whose values are points of one curve; settings that differ in others are curves of their own."""
_STEPS = 4  # KLs from one power of 2 to the next
_CAPTION = (
    "Mean reward at the same KL to the reference (nats a response), read between two settings of a method that differ"
    " in β, linearly in the square root of the KL. Nothing is extrapolated: - where a seed has none below or above.",
    "In brackets: the difference from {base} at this KL, ± the longer arm of its 95% interval, on the same prompts.",
    "All: the mean difference over all KLs that both reach, in steps of a factor of 1.19.",
    "Star: a difference that is real by a test at 5%, after Holm's correction over the rows of a column.",
    "Intervals count prompts, the error of the measured KLs and, of several seeds, trainings.",
)


@dataclass(frozen=True)
class Curve:
    """The settings of a method that differ in beta alone. points: (settings, seeds, 2, prompts) of reward and KL."""

    method: str
    label: str
    params: str
    points: np.ndarray


def matched_kl_frame(scores: Sequence[Mapping[str, Any]], baseline: str = BASELINE) -> pd.DataFrame:
    r"""One row per curve and KL: the mean reward at this KL, and its difference from the baseline's.

    The reward of a trained seed at KL k is read off its own points (KL, reward): it is linear in $\sqrt k$ between
    neighbours, as reward is nearly linear in the square root of KL near the reference (Gao et al. 2023). Nothing is
    extrapolated: a KL is left out for a curve whose seeds do not all have a setting below and one above.
    The KLs are powers of $2^{1/4}$, in nats a response, that two curves or more reach.

    Columns: method, label, params, seeds, kl; reward and difference, each with `_low` and `_high`, 95% bounds over
    prompts and, of several seeds, trainings, which count the error of the measured KLs too (`rewards_at`); `p_holm`,
    of the difference, corrected over the curves at the same KL. A row with kl nan is the mean over all KLs that the
    curve and the baseline both reach. scores: files of scores of all runs; empty without a reward or such a KL.
    """
    curves = _curves(scores)
    rewards = [_rewards(curve) for curve in curves]
    if not any(rewards):
        return pd.DataFrame()
    base = next((place for place, curve in enumerate(curves) if curve.method == baseline), 0)
    counts = Counter(kl for own in rewards for kl in own)
    rows = []
    for curve, own in zip(curves, rewards, strict=True):
        other = {} if curve is curves[base] else rewards[base]
        rows += [_row(curve, kl, own[kl], other.get(kl)) for kl in sorted(own) if counts[kl] > 1]
        if shared := sorted(own.keys() & other.keys()):
            means = [np.mean([values[kl] for kl in shared], axis=0) for values in (own, other)]
            rows.append(_row(curve, math.nan, *means))
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["p_holm"] = frame.groupby("kl", dropna=False)["p"].transform(lambda column: holm(list(column)))
    return frame


def matched_kl_table(frame: pd.DataFrame, provenance: str, baseline: str = BASELINE) -> Table:
    """The printed table: a row for each curve, a column for each power of 2 and one for the mean over all KLs."""
    if frame.empty:
        return Table([], "No KL is reached by two methods with a setting below and one above.", (), provenance)
    kls = sorted(kl for kl in frame["kl"].dropna().unique() if math.log2(kl).is_integer())
    rows = []
    for (label, params), own in frame.groupby(["label", "params"], sort=False):
        rows_by_kl = {"all" if math.isnan(row["kl"]) else row["kl"]: row for row in own.to_dict("records")}
        cells = [_cell(rows_by_kl.get(kl), with_reward=True) for kl in kls] + [
            _cell(rows_by_kl.get("all"), with_reward=False)
        ]
        rows.append([Cell(label), Cell(params), Cell(str(own["seeds"].iloc[0])), *cells])
    heads = ["method", "setting", "seeds", *(f"KL {kl:g}" for kl in kls), "all"]
    names = dict(zip(frame["method"], frame["label"], strict=True))
    base = names.get(baseline, frame["label"].iloc[0])
    return Table([Block(heads, 2, [rows])], " ".join(_CAPTION).format(base=base), (), provenance)


def write_matched_kl(frame: pd.DataFrame, *, provenance: str, csv_bom: bool = False, **paths: Path) -> None:
    """Write the table to the csv, markdown and latex of `paths`; `provenance` says what made the numbers."""
    write_table(matched_kl_table(frame, provenance), frame, csv_bom=csv_bom, **paths)


def rewards_at(points: np.ndarray, kl: float) -> np.ndarray | None:
    """(seeds, prompts): the reward at this KL of each seed, or None where one of them has it not between its points.

    points: (settings, seeds, 2, prompts) of reward and KL. The mean over prompts is the interpolated reward. As the KL
    of a point is a mean over the prompts too, a prompt's deviation from it shifts its value by the slope of the curve
    times that deviation (the delta method), so that the spread over prompts counts it.
    """
    values = []
    for own in np.moveaxis(points, 1, 0):
        own = own[np.argsort(own[:, 1].mean(1))]
        means = own.mean(2)
        place = max(1, int(np.searchsorted(means[:, 1], kl)))
        if place == len(own) or kl < means[0, 1]:
            return None
        between = slice(place - 1, place + 1)
        left, right, root = np.sqrt([*means[between, 1], kl])
        weights = np.array([right - root, root - left]) / (right - left)
        slope = (means[place, 0] - means[place - 1, 0]) / (right - left)
        # d sqrt(KL) of each prompt; there is none at a KL of 0
        deviations = (own[between, 1] - means[between, 1:]) / np.array([[2 * left or 1.0], [2 * right]])
        values.append(weights @ (own[between, 0] - slope * deviations))
    return np.array(values)


def _rewards(curve: Curve) -> dict[float, np.ndarray]:
    """KL -> (seeds, prompts), of the KLs that the curve reaches."""
    means = curve.points[:, :, 1].mean(2)
    low, high = float(means.min(0).max()), float(means.max(0).min())
    if not 0 < low < high:
        return {}
    steps = range(math.ceil(_STEPS * math.log2(low)), math.floor(_STEPS * math.log2(high)) + 1)
    kls = [2.0 ** (step / _STEPS) for step in steps]
    return {kl: values for kl in kls if (values := rewards_at(curve.points, kl)) is not None}


def _curves(scores: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The curves in the order of the scores, of the seeds that all settings of a curve have."""
    settings: dict[tuple[str, str], dict[str, None]] = {}
    labels = {score["method"]: score["label"] for score in scores}
    for score in scores:
        if score["method"] != "sft":
            fixed = params_text({name: value for name, value in score["params"].items() if name != SWEPT})
            settings.setdefault((score["method"], fixed), {})[params_text(score["params"])] = None
    by_setting, curves = runs_by_setting(scores), []
    for (method, fixed), names in settings.items():
        runs: list[Runs] = [by_setting[method, name] for name in names if (method, name) in by_setting]
        seeds = sorted(set.intersection(*map(set, runs))) if runs else []
        if seeds:
            points = np.array([[own[seed] for seed in seeds] for own in runs])
            curves.append(Curve(method, labels[method], fixed, points))
    return curves


def _row(curve: Curve, kl: float, own: np.ndarray, base: np.ndarray | None) -> dict[str, Any]:
    interval = sample_interval(_sample(own))
    row = {"method": curve.method, "label": curve.label, "params": curve.params, "seeds": len(own), "kl": kl}
    row |= {"reward": interval.mean, "reward_low": interval.low, "reward_high": interval.high}
    names, p = ("difference", "difference_low", "difference_high"), math.nan
    if base is None:
        return row | dict.fromkeys((*names, "p"), math.nan)
    estimate = difference_estimate(_sample(own), _sample(base))
    if estimate.prompts >= MIN_PROMPTS:
        p = estimate.p_value()
    return row | dict(zip(names, vars(estimate.interval()).values(), strict=True)) | {"p": p}


def _cell(row: Mapping[str, Any] | None, with_reward: bool) -> Cell:
    if row is None:
        return Cell("-")
    difference = mean_with_interval(*(row[f"difference{end}"] for end in ("", "_low", "_high")), 3)
    reward = format_number(row["reward"], 3)
    if math.isnan(row["difference"]):
        return Cell(reward if with_reward else "-")
    return Cell(f"{reward} ({difference})" if with_reward else difference, 0, STAR * (row["p_holm"] < LEVEL))


def _sample(values: np.ndarray) -> SeedSample:
    return SeedSample(tuple(range(values.shape[1])), values, np.ones_like(values))
