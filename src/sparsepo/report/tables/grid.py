"""The main table: one row a method and parameter setting, its seeds pooled, from score files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsepo.data.records import write_text
from sparsepo.evaluation.statistics import mean_interval
from sparsepo.report.run_names import params_text
from sparsepo.report.tables.render import latex_table, markdown_table

Score = Mapping[str, Any]

_AUC = ("m_u", "m_d", "abs_logratio", "oracle_score", "excess")
_SIDES = ("chosen", "rejected")
_OPTIONAL = ("logp_change_", "auc_", "sparsity_")


def main_table(scores: Sequence[Score]) -> pd.DataFrame:
    """One row per (method, params), SFT first, then in the order given.

    Reward, both KLs and entropy are means over all samples of all seeds, with the 95% bootstrap interval in
    `_low` and `_high`; whole (seed, prompt) groups are resampled, because samples of one prompt are
    alike. What is one number a run is averaged over runs. A column that no score can fill (no
    planted tokens, no masks) is left out.
    """
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in sorted(scores, key=lambda score: score["method"] != "sft"):
        groups.setdefault((score["method"], params_text(score["params"])), []).append(score)
    frame = pd.DataFrame([_row(runs) for runs in groups.values()])
    empty = [name for name in frame if name.startswith(_OPTIONAL) and frame[name].isna().all()]
    return frame.drop(columns=empty)


def _row(runs: Sequence[Score]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "label": runs[0]["label"],
        "method": runs[0]["method"],
        "params": params_text(runs[0]["params"]),
        "seeds": len(runs),
    }
    groups = [(run["seed"], prompt) for run in runs for prompt in run["prompt_ids"]]
    rewarded = ("reward",) if runs[0]["reward"] else ()
    for name in (*rewarded, "kl_sample", "kl_exact", "entropy"):
        interval = mean_interval([value for run in runs for value in run[name]], groups)
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    row["distinct_1"] = _mean(run["distinct_1"] for run in runs)
    row["distinct_2"] = _mean(run["distinct_2"] for run in runs)
    row["length"] = _mean(tokens for run in runs for tokens in run["length"])
    for side in _SIDES:
        row[f"logp_change_{side}"] = _mean(run["logp_change"].get(side) for run in runs)
    for name in _AUC:
        for side in _SIDES:
            row[f"auc_{name}_{side}"] = _mean(run["auc"].get(name, {}).get(side) for run in runs)
    for name in ("m_u", "m_d"):
        row[f"sparsity_{name}"] = _mean(share for run in runs for share in run["sparsity"].get(name, {}).values())
    return row


def _mean(values: Any) -> float:
    """Mean of what is there; nan when nothing is."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else float("nan")


def write_table(
    frame: pd.DataFrame,
    *,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    provenance: str,
) -> None:
    """Write the table for machines (CSV, 6 significant digits, no comment lines) and for people.

    `provenance` (what made the numbers) ends the Markdown and opens the LaTeX as a comment.
    """
    write_text(csv, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(markdown, markdown_table(frame, reading(frame), provenance))
    write_text(latex, latex_table(frame, provenance))


def reading(frame: pd.DataFrame) -> list[str]:
    """What a careful reviewer would say of this table, one sentence a finding."""
    trained = frame[frame["method"] != "sft"]
    findings = [*(_against_sft(frame, trained) if "reward" in frame else ()), *_seeds(trained)]
    if "logp_change_chosen" in frame:
        falling = trained["logp_change_chosen"] < 0
        findings += _finding("The log-probability of the chosen responses fell", trained, falling)
    far = trained["kl_exact"] > 10 * trained["kl_exact"].median()
    findings += _finding("The exact KL is over ten times this table's median", trained, far)
    exploded = trained["kl_exact"] > trained["length"]
    findings += _finding("The exact KL is over one nat for each token of a response", trained, exploded)
    if len(trained) < len(frame):
        longer = trained["length"] > 1.2 * frame["length"].iloc[0]  # SFT's
        findings += _finding("The responses are over a fifth longer than SFT's", trained, longer)
    for name in ("m_u", "m_d"):
        if f"sparsity_{name}" in frame:
            zeros = trained[f"sparsity_{name}"]
            dead = f"The mask {name} is dead (over 99% of its weights are zero)"
            findings += _finding(dead, trained, zeros > 0.99)
            findings += _finding(f"The mask {name} has no exact zero", trained, zeros == 0.0)
    return findings


def _against_sft(frame: pd.DataFrame, trained: pd.DataFrame) -> list[str]:
    sft = frame[frame["method"] == "sft"]
    if sft.empty:
        return ["There is no SFT row, so no method is compared with its starting point."]
    level = sft["reward"].iloc[0]
    opening = f"The mean reward is not above SFT's ({level:.3f})"
    return _finding(opening, trained, trained["reward"] <= level)


def _seeds(trained: pd.DataFrame) -> list[str]:
    if len(trained) and (trained["seeds"] == 1).all():
        return ["One seed a row: the intervals cover the sampling of prompts only, not training."]
    opening = "Under 3 seeds, so the intervals hardly cover the variation between trainings"
    return _finding(opening, trained, trained["seeds"] < 3)


def _finding(opening: str, trained: pd.DataFrame, where: pd.Series) -> list[str]:
    """`prompt_tokens` and the settings it holds for; nothing when it holds for none."""
    if not where.any():
        return []
    if where.all() and len(trained) > 1:
        return [f"{opening}: every trained setting."]
    settings = trained[where].groupby("label", sort=False)["params"].agg("; ".join)
    return [f"{opening}: {', '.join(f'{label} ({text})' for label, text in settings.items())}."]
