"""Training curves: the columns of `dynamics.jsonl` over the steps, the mean over the seeds of each setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparsepo.report.run_names import parse_run, short_params

Dynamics = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of `dynamics.jsonl` by run."""


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


@dataclass(frozen=True, eq=False)
class Curve:
    """The mean over the seeds of one setting, by step; `setting` is like `β=0.1, α=0.5`, `label` the method's."""

    method: str
    label: str
    setting: str
    means: pd.DataFrame

    @property
    def beta(self) -> str:
        return self.setting.split(", ")[0]

    def has(self, quantity: Quantity) -> bool:
        return any(column in self.means for column in quantity.columns.values())

    def running_mean(self, column: str) -> pd.Series:
        """Mean over a twentieth of the steps around each step that has a value."""
        values = self.means[column].dropna()  # rows of validation have none
        return values.rolling(max(1, len(values) // 20), center=True, min_periods=1).mean()

    def points(self, quantity: Quantity, most: int) -> list[dict[str, Any]]:
        """The running mean of each side at no more than `most` steps, evenly spread from the first to the last."""
        rows = []
        for side, column in quantity.columns.items():
            if column in self.means:
                mean = self.running_mean(column)
                places = np.linspace(0, len(mean) - 1, min(len(mean), most)).round().astype(int)
                rows += [self._row(side, step, value) for step, value in mean.iloc[places].items()]
        return rows

    def raw_points(self, quantity: Quantity) -> list[dict[str, Any]]:
        """The values themselves."""
        columns = quantity.columns.items()
        return [
            self._row(side, step, value)
            for side, column in columns
            for step, value in self.means[column].dropna().items()
        ]

    def _row(self, side: str, step: Any, value: float) -> dict[str, Any]:
        line = ", ".join(part for part in (f"{self.label} {self.setting}", side) if part)
        names = {"method": self.method, "label": self.label, "setting": self.setting, "side": side, "line": line}
        return names | {"step": int(step), "value": float(value)}


def setting_curves(dynamics: Dynamics, labels: Mapping[str, str]) -> list[Curve]:
    """A curve for each setting, those of one method together; columns that hold no number are left out."""
    frames: dict[str, dict[tuple, list[pd.DataFrame]]] = {}
    for run, rows in dynamics.items():
        method, params, _ = parse_run(run)
        setting = tuple(sorted(params.items()))
        frames.setdefault(method, {}).setdefault(setting, []).append(pd.DataFrame(list(rows)))
    return [
        Curve(method, labels[method], name, _means(seeds))
        for method, settings in frames.items()
        for seeds, name in zip(settings.values(), _setting_names(settings), strict=True)
    ]


def _means(seeds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    means = pd.concat(seeds).groupby("step").mean()
    return means.where(np.isfinite(means)).dropna(axis=1, how="all")


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
