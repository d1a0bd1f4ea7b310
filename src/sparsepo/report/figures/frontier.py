"""The reward-KL frontier, how much reward each method gains for how much divergence; and reward over entropy."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from sparsepo.report.figures.reward_plot import PlotRow, RewardPlot
from sparsepo.report.figures.style import sentence
from sparsepo.report.frontier_score import FrontierPoint, pareto_set, upper_hull
from sparsepo.report.run_names import params_text, parse_run
from sparsepo.report.tables.grid import ScoreFile, grid_frame
from sparsepo.report.tables.render import format_number

KLS = {"kl_exact": "exact KL to the reference", "kl_sample": "sampled KL to the reference"}
TrainingPoints = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of `frontier.jsonl` by run."""


def plot_frontier(scores: Sequence[ScoreFile], training_points: TrainingPoints) -> alt.LayerChart:
    """`frontier_plot` over the exact KL, for print."""
    frame = grid_frame(scores)
    remarks = ["numbers: β of a setting"]
    if any(training_points.values()):
        remarks.append("small points: during training")
    if frame["seeds"].max() > 1:
        remarks.append("hollow markers: single seeds")
    return frontier_plot(frame, scores, training_points, "kl_exact").for_print(_label_texts(scores), remarks)


def plot_pareto(scores: Sequence[ScoreFile], training_points: TrainingPoints) -> alt.TopLevelMixin:
    """`pareto_plot` for print."""
    if not any(training_points.values()):
        return sentence("No run of this task was measured during training.")
    remark = "points: policies during training, one response to a prompt; lines: Pareto set of the points of a method"
    return pareto_plot(scores, training_points).for_print({}, [remark])


def plot_diversity(scores: Sequence[ScoreFile]) -> alt.LayerChart:
    """Mean reward over the entropy of responses (nats), for print.

    The line of a method goes through its settings from the lowest reward to the highest.
    """
    frame = grid_frame(scores)
    settings = _setting_rows(frame, "entropy")
    trained = [row for row in settings if row["method"] != "sft"]
    lines = [row | {"kind": "line", "order": row["y"]} for row in trained]
    plot = RewardPlot([*lines, *settings], _labels(frame), "entropy: mean of −log π of a response (nats)",
                      line_opacity=0.4)  # fmt: skip
    return plot.for_print(_label_texts(scores), ["numbers: β of a setting"])


def frontier_plot(
    frame: pd.DataFrame, scores: Sequence[ScoreFile], training_points: TrainingPoints, x: str
) -> RewardPlot:
    """Reward over KL. frame: `grid_frame` of the scores of all runs. x: one of `KLS`.

    The line of a method is the hull of its settings and SFT, which its frontier score measures; points during training
    rest on one response per prompt, so chance would draw a hull through them. The KL axis is a square root where one
    setting's KL would press the others against the left edge.
    """
    trained = frame.loc[frame["method"] != "sft", x]
    root = bool(trained.max() > 6 * trained.median() > 0)
    labels = _labels(frame)
    rows = _hull_rows(frame, labels, x) + _training_rows(training_points, labels, x)
    rows += _seed_rows(scores, x) + _setting_rows(frame, x)
    return RewardPlot(rows, labels, _kl_title(x, root), root)


def pareto_plot(scores: Sequence[ScoreFile], training_points: TrainingPoints) -> RewardPlot:
    """Reward over exact KL of every policy measured during training, all settings and seeds of a method together.

    The line of a method is the Pareto set of its points, as in Figure 2 of arXiv 2410.05102. It goes through the
    best of noisy points.
    """
    labels = {score["method"]: score["label"] for score in scores}
    points = _training_rows(training_points, labels, "kl_exact")
    rows = []
    for method, label in labels.items():
        best = pareto_set((row["x"], row["y"]) for row in points if row["method"] == method)
        rows += [_row("line", method, label, *point) | {"order": order} for order, point in enumerate(best)]
    sft = grid_frame([score for score in scores if score["method"] == "sft"]) if "sft" in labels else pd.DataFrame()
    kls = sorted(row["x"] for row in points)
    root = bool(kls and kls[-1] > 6 * kls[len(kls) // 2] > 0)
    rows += [*points, *_setting_rows(sft, "kl_exact")]
    return RewardPlot(rows, labels, _kl_title("kl_exact", root), root, point_size=20)


def interval_text(row: Mapping[str, Any], name: str) -> str:
    """The 95% interval of a column of the grid; "" where a single prompt gives none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if math.isnan(low) else f"[{low:z.3f}, {high:z.3f}]"


def _setting_rows(frame: pd.DataFrame, x: str) -> list[PlotRow]:
    """An interval that one prompt cannot give has no length."""
    rows = []
    for setting in frame.to_dict("records"):
        run = f"{setting['seeds']} seed{'s' * (setting['seeds'] > 1)}, at the end"
        if not math.isnan(beta := setting.get("effective_beta", math.nan)):
            run += f", effective β {format_number(beta, 3)}"
        row = _row(
            "setting", setting["method"], setting["label"], setting[x], setting["reward"], setting["params"], run
        )
        texts = {}
        for axis, name in (("x", x), ("y", "reward")):
            interval = interval_text(setting, name)
            texts[name] = f"{format_number(setting[name], 3)} {interval}".strip()
            row |= {f"{axis}_{end}": setting[f"{name}_{end}" if interval else name] for end in ("low", "high")}
        rows.append(row | {"reward": texts["reward"], "KL": f"{texts[x]} nats"})
    return rows


def _hull_rows(frame: pd.DataFrame, labels: Mapping[str, str], x: str) -> list[PlotRow]:
    """Each hull as 50 points: on a square-root axis a straight line of the data is a curve."""
    points: dict[str, list[FrontierPoint]] = {
        method: list(zip(rows[x], rows["reward"], strict=True)) for method, rows in frame.groupby("method", sort=False)
    }
    start = points.pop("sft", [])
    rows = []
    for method, ends in points.items():
        corners = upper_hull([*start, *(point for point in ends if not start or point[0] >= start[0][0])])
        xs = np.linspace(corners[0][0], corners[-1][0], 50)
        ys = np.interp(xs, *zip(*corners, strict=True))
        for order, (across, up) in enumerate(zip(xs, ys, strict=True)):
            rows.append(_row("line", method, labels[method], across, up) | {"order": order})
    return rows


def _training_rows(training_points: TrainingPoints, labels: Mapping[str, str], x: str) -> list[PlotRow]:
    rows = []
    for run, points in training_points.items():
        method, params, seed = parse_run(run)
        names = method, labels[method]
        rows += [
            _row("training", *names, at[x], at["reward"], params_text(params), f"seed {seed}, step {at['step']}")
            for at in points
        ]
    return rows


def _seed_rows(scores: Sequence[ScoreFile], x: str) -> list[PlotRow]:
    """Each run by itself, where settings pool several."""
    settings = [(score["method"], params_text(score["params"])) for score in scores]
    rows = []
    for score, (method, params) in zip(scores, settings, strict=True):
        if settings.count((method, params)) > 1:
            kl, reward, run = fmean(score[x]), fmean(score["reward"]), f"seed {score['seed']}, at its end"
            rows.append(_row("seed", method, score["label"], kl, reward, params, run))
    return rows


def _row(kind: str, method: str, label: str, x: float, y: float, params: str = "", run: str = "") -> PlotRow:
    """A datum; with a `run` it can be pointed at."""
    row: PlotRow = {"kind": kind, "method": method, "label": label, "x": float(x), "y": float(y)}
    numbers = {"reward": format_number(y, 3), "KL": f"{format_number(x, 3)} nats"}
    return row | {"title": _title(label, params), "run": run} | numbers if run else row


def _kl_title(x: str, root: bool) -> str:
    return f"{KLS[x]} (nats a response){', square-root axis' * root}"


def _title(label: str, params: str) -> str:
    return f"{label} {params.strip('-')}".strip()


def _labels(frame: pd.DataFrame) -> dict[str, str]:
    return dict(zip(frame["method"], frame["label"], strict=True))


def _label_texts(scores: Sequence[ScoreFile]) -> dict[str, str]:
    """Title of a setting -> its β, with its divergence and mean where it has them."""
    names = ("divergence", "mean", "beta")
    return {
        _title(score["label"], params_text(score["params"])): " ".join(
            score["params"][name] for name in names if name in score["params"]
        )
        for score in scores
    }
