"""What rounds of training bring: mean reward and KL to the reference at the end of each, a line a setting."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsepo.evaluation.statistics import student_interval
from sparsepo.report.figures.style import RC, method_style, new_figure
from sparsepo.report.run_names import parse_run, short_params

Points = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of `frontier.jsonl` by run; those of runs in rounds have an `iteration`."""

_AXES = {"reward": "mean reward", "kl_exact": "KL to the reference (nats a response)"}


def by_round(points: Points) -> pd.DataFrame:
    """A row a setting, seed and round: `method`, `setting`, `seed`, `iteration`, `reward`, `kl_exact` at its end.

    The setting leaves out the number of rounds: runs that differ in nothing else share their rounds, which count once.
    """
    rows = []
    for run, measured in points.items():
        method, params, seed = parse_run(run)
        names = ["beta", *sorted(set(params) - {"beta", "iterations"})]
        known = {"method": method, "setting": short_params(params, names), "seed": seed}
        rows += [known | dict(row) for row in measured if "iteration" in row]
    columns = ["method", "setting", "seed", "iteration"]
    frame = pd.DataFrame(rows, columns=[*columns, "step", *_AXES]).sort_values("step", kind="stable")
    return frame.drop_duplicates(columns, keep="last").sort_values(columns, kind="stable")


@rc_context(RC)
def plot_rounds(points: Points, sft_reward: float) -> Figure:
    """Both over the rounds, from SFT, which is round 0; bars are 95% intervals over seeds where there are several."""
    frame = by_round(points)
    figure = new_figure(2.8)
    panels = dict(zip(_AXES, figure.subplots(1, len(_AXES)), strict=True))
    lines = list(frame.groupby(["method", "setting"], sort=False))
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.82, max(1, len(lines))))
    for name, axes in panels.items():
        start = {"reward": sft_reward, "kl_exact": 0.0}[name]
        for ((method, setting), rows), shade in zip(lines, shades, strict=True):
            _draw(axes, rows, name, start, marker=method_style(method).marker, color=tuple(shade), label=setting)
        axes.plot(0, start, marker="*", markersize=9, color="black", linestyle="none", zorder=5, label="SFT")
        axes.set_xlabel("round")
        axes.set_ylabel(_AXES[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = panels["reward"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, name: str, start: float, **look: Any) -> None:
    """A line of means over seeds."""
    found = {number: own[name].tolist() for number, own in rows.groupby("iteration")}
    axes.plot([0, *found], [start, *map(fmean, found.values())], markersize=4, **look)
    for number, values in found.items():
        if len(values) > 1:
            interval = student_interval(values)
            axes.vlines(number, interval.low, interval.high, color=look["color"], linewidth=0.8, alpha=0.6)
