"""Training curves: the columns of `dynamics.jsonl` over the steps, the mean over the seeds of each setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparsepo.report.run_names import parse_run, short_params

Dynamics = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of `dynamics.jsonl` by run."""

ROW = ["method", "label", "setting", "side", "line", "step", "value"]
"""What a chart reads of a row."""


@dataclass(frozen=True)
class Quantity:
    """A column of `dynamics.jsonl`, or one for chosen and one for rejected responses where `sides` is True."""

    name: str
    label: str
    axis: str
    sides: bool = True

    @property
    def columns(self) -> dict[str, str]:
        """Side -> column; the side is "" where there is only one column."""
        if not self.sides:
            return {"": self.name}
        return {side: f"{self.name}_{side}" for side in ("chosen", "rejected")}


QUANTITIES = (
    Quantity("sparsity_u", "mask sparsity: zeros in m_u", "share of zeros"),
    Quantity("sparsity_d", "mask sparsity: zeros in m_d", "share of zeros"),
    Quantity("effective_beta", "effective β: β times the mean weight m_u of a token", "effective β", sides=False),
    Quantity("reverse_kl", "token KL(π‖ref), summed over a response", "nats"),
    Quantity("forward_kl", "token KL(ref‖π), summed over a response", "nats"),
    Quantity("logp_change", "change of log-prob of a response", "nats"),
    Quantity("reward_margin", "margin: reward of chosen - rejected", "margin", sides=False),
    Quantity("reward_accuracy", "pairs whose chosen response has the higher reward", "share of pairs", sides=False),
    Quantity("loss", "loss", "loss", sides=False),
    Quantity("reward", "reward of the policy's own samples", "mean reward", sides=False),
    Quantity("feature", "feature of the policy's own samples", "mean", sides=False),
    Quantity("kl_to_target", "KL(p‖π) to the target", "nats", sides=False),
    Quantity("reverse_kl_to_target", "KL(π‖p) to the target", "nats", sides=False),
    Quantity("js_to_target", "Jensen-Shannon divergence from the target", "nats", sides=False),
    Quantity("tv_to_target", "total variation from the target", "0 to 1", sides=False),
    Quantity("entropy", "entropy of the policy's responses", "nats", sides=False),
)
"""Everything that the page shows over the steps, in this order."""


def training_curves(
    dynamics: Dynamics, labels: Mapping[str, str], quantities: Sequence[Quantity] = QUANTITIES
) -> dict[str, pd.DataFrame]:
    """Name of each quantity that was logged -> a row for each setting, side and step (not of validation) with a number.

    `value` is the mean over the seeds, `mean` its mean over a twentieth of the steps around; `setting` is like
    `β=0.1, α=0.5`, `place` its place among them, and `line` names setting and side. labels: method -> printed name.
    """
    seeds: dict[str, dict[tuple, list[pd.DataFrame]]] = {}
    for run, rows in dynamics.items():
        method, params, _ = parse_run(run)
        setting = tuple(sorted(params.items()))
        seeds.setdefault(method, {}).setdefault(setting, []).append(pd.DataFrame(list(rows)))
    place, curves = 0, {quantity.name: [] for quantity in quantities}
    for method, settings in seeds.items():
        for frames, setting in zip(settings.values(), _setting_names(settings), strict=True):
            means = pd.concat(frames).groupby("step").mean()
            place += 1
            names = {"place": place, "method": method, "label": labels[method], "setting": setting}
            for quantity in quantities:
                for side, column in quantity.columns.items():
                    if column in means and np.isfinite(means[column]).any():
                        curves[quantity.name].append(_line(means[column], names, side, column))
    return {name: pd.concat(lines, ignore_index=True) for name, lines in curves.items() if lines}


def _line(means: pd.Series, names: Mapping[str, Any], side: str, column: str) -> pd.DataFrame:
    values = means[np.isfinite(means)]
    window = values.rolling(max(1, len(values) // 20), center=True, min_periods=1)
    line = ", ".join(part for part in (f"{names['label']} {names['setting']}", side) if part)
    numbers = {"step": values.index.astype(int), "value": values, "mean": window.mean()}
    return pd.DataFrame({**numbers, **names, "side": side, "line": line, "column": column})


def thinned(curves: pd.DataFrame, most: int) -> pd.DataFrame:
    """The `mean` of each line as its `value`, at `most` steps or fewer, evenly spread from the first to the last."""
    lines = [line for _, line in curves.groupby("line", sort=False)]
    places = [np.linspace(0, len(line) - 1, min(len(line), most)).round().astype(int) for line in lines]
    rows = pd.concat(line.iloc[place] for line, place in zip(lines, places, strict=True))
    return rows.assign(value=rows["mean"])[ROW]


def _setting_names(settings: Mapping[tuple, Any]) -> list[str]:
    """Each setting by its beta and by whatever else differs between the settings of this method."""
    params = [dict(setting) for setting in settings]
    names = sorted({name for setting in params for name in setting} - {"beta"})
    varying = [name for name in names if len({setting.get(name) for setting in params}) > 1]
    return [short_params(setting, ["beta", *varying]) for setting in params]


def setting_order(name: str) -> tuple[float, str]:
    """A key that sorts settings by their beta, those without one last."""
    try:
        return float(name.split(", ")[0].removeprefix("β=")), name
    except ValueError:
        return float("inf"), name
