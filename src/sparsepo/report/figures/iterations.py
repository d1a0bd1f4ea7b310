"""What rounds of training bring: mean reward and KL to the reference at the end of each, a line for each setting."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from sparsepo.evaluation.statistics import interval_of_means
from sparsepo.report.figures.marks import interval_lines
from sparsepo.report.figures.style import DASHES, SFT_STYLE, WIDTH, MethodStyle, method_style, setting_colours
from sparsepo.report.run_names import parse_run, short_params

_TITLES = {"reward": "mean reward", "kl_exact": "KL to the reference (nats a response)"}


def round_ends(training_points: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """One row per setting, seed and round: `method`, `setting`, `seed`, `iteration`, `reward`, `kl_exact` at its end.

    training_points: rows of `frontier.jsonl` by run; those of runs in rounds have an `iteration`. The setting leaves
    out the number of rounds: runs that differ in nothing else share their rounds, which count once.
    """
    rows = []
    for run, points in training_points.items():
        method, params, seed = parse_run(run)
        names = ["beta", *sorted(set(params) - {"beta", "iterations"})]
        run_names = {"method": method, "setting": short_params(params, names), "seed": seed}
        rows += [run_names | dict(point) for point in points if "iteration" in point]
    columns = ["method", "setting", "seed", "iteration"]
    frame = pd.DataFrame(rows, columns=[*columns, "step", *_TITLES]).sort_values("step", kind="stable")
    return frame.drop_duplicates(columns, keep="last").sort_values(columns, kind="stable")


def plot_rounds(training_points: Mapping[str, Sequence[Mapping[str, Any]]], sft_reward: float) -> alt.HConcatChart:
    """Both over the rounds, from SFT, which is round 0; bars are 95% intervals over seeds where there are several."""
    ends = round_ends(training_points)
    several = ends["method"].nunique() > 1
    ends["label"] = ends["method"] + " " + ends["setting"] if several else ends["setting"]
    methods = dict(zip(ends["label"], ends["method"], strict=True))
    styles = {
        label: MethodStyle(colour, method_style(method).marker, DASHES[0])
        for (label, method), colour in zip(methods.items(), setting_colours(len(methods)), strict=True)
    }
    styles |= {"SFT": SFT_STYLE}
    scale, axis = alt.Scale(nice=False, padding=8), alt.Axis(tickMinStep=1, format="d")
    x = alt.X("x:Q", title="round", scale=scale, axis=axis)
    panels = []
    for name, title in _TITLES.items():
        level = sft_reward if name == "reward" else 0.0
        start = pd.DataFrame([{"label": label, "x": 0, "mean": level} for label in styles])
        panel = interval_lines(pd.concat([start, _means(ends, name)]), x, title, styles)
        panels.append(panel.properties(width=WIDTH / 2 - 20, height=140))
    return alt.hconcat(*panels)


def _means(ends: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row for each setting and round: the mean over its seeds, and its bounds where there are several."""
    rounds = ends.groupby(["label", "iteration"], sort=False)[name]
    return pd.DataFrame(
        {"label": label, "x": at} | vars(interval_of_means(list(own), [])) for (label, at), own in rounds
    )
