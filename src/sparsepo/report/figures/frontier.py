"""The reward-KL frontier: how much reward each method buys for how much divergence."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparsepo.report.figures.label_placement import Label, place_labels
from sparsepo.report.figures.style import RC, MethodStyle, method_style, new_figure
from sparsepo.report.run_names import params_text, parse_run
from sparsepo.report.tables.grid import Score, main_table

Point = tuple[float, float]

_LABELS = ("divergence", "mean", "beta")
"""Parameters that stand beside a marker."""
_X_LABELS = {
    "kl_sample": "KL to the reference, sampled (nats a response)",
    "kl_exact": "KL to the reference, exact (nats a response)",
}


def upper_hull(points: Iterable[Point]) -> list[Point]:
    """Corners of the upper concave envelope, from the leftmost point to the best one.

    The envelope rises to the highest reward and is flat from there on: more KL for no more reward
    is never worth having. Every point lies on or below it. Andrew's monotone chain over the points
    that no point further left equals or beats.
    """
    hull: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if hull and point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and not _turns_right(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_right(a: Point, b: Point, c: Point) -> bool:
    """Whether b lies strictly above the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) > (c[1] - a[1]) * (b[0] - a[0])


@rc_context(RC)
def plot_frontier(
    scores: Sequence[Score],
    training_points: Mapping[str, Sequence[Mapping[str, Any]]],
    x: str = "kl_exact",
) -> Figure:
    """Mean reward over mean KL: faint points during training, large ones with intervals after it.

    `training_points`: rows of `frontier.jsonl` by run. `x`: `kl_sample` or `kl_exact`. The line of
    a method is `upper_hull` of its large markers and the SFT point: the faint ones, which rest on one
    response a prompt, would let chance draw it. The KL axis is a square root where one setting's KL
    would otherwise press the others against the left edge.
    """
    trained, sft = settings_of(scores, x)
    passed = _points_by_method(training_points, x)
    figure = new_figure(4.4)
    axes = figure.subplots()
    if trained[x].max() > 6 * trained[x].median() > 0:
        _use_root_axis(axes, trained[f"{x}_high"].max())
    start = [(float(row[x]), float(row["reward"])) for _, row in sft.iterrows()]
    for method, rows in trained.groupby("method", sort=False):
        _draw_method(axes, method, rows, passed.get(method, []), start, x)
    draw_start(axes, start)
    axes.set_xlabel(_X_LABELS[x] + ("" if axes.get_xscale() == "linear" else ", square-root axis"))
    axes.set_ylabel("mean reward")
    figure.legend(
        handles=legend(trained, bool(start), bool(passed)),
        loc="outside lower center",
        ncols=4,
        handlelength=3.4,
    )
    label_betas(figure, axes, trained, start, x, scores)
    return figure


def settings_of(scores: Sequence[Score], x: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the main table, of trained settings and of SFT; where one prompt gives no interval it has no length."""
    table = main_table(scores)
    for bound in (f"{name}_{end}" for name in (x, "reward") for end in ("low", "high")):
        table[bound] = table[bound].fillna(table[bound.rsplit("_", 1)[0]])
    return table[table["method"] != "sft"], table[table["method"] == "sft"]


def draw_start(axes: Axes, start: Sequence[Point]) -> None:
    """A star where SFT stands, and the height of its reward."""
    for place in start:
        axes.axhline(place[1], color="black", linestyle=":", linewidth=0.8, zorder=1)
        axes.plot(*place, color="black", marker="*", markersize=11, linestyle="none", zorder=6)


def _use_root_axis(axes: Axes, highest: float) -> None:
    """Square-root x axis with ticks at the squares of round numbers, so evenly set."""
    axes.set_xscale("function", functions=(_signed_root, _signed_square))
    axes.set_xticks(np.square(MaxNLocator(8).tick_values(0.0, np.sqrt(highest))))
    axes.xaxis.set_major_formatter("{x:g}")


def _signed_root(values: Any) -> Any:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: Any) -> Any:
    return np.sign(values) * np.square(values)


def _points_by_method(training_points: Mapping[str, Sequence[Mapping[str, Any]]], x: str) -> dict[str, list[Point]]:
    points: dict[str, list[Point]] = {}
    for run, rows in training_points.items():
        points.setdefault(parse_run(run)[0], []).extend((row[x], row["reward"]) for row in rows)
    return points


def _draw_method(axes: Axes, method: str, rows: pd.DataFrame, passed: list[Point], start: list[Point], x: str) -> None:
    look = method_style(method)
    if passed:
        axes.scatter(*zip(*passed, strict=True), s=6, color=look.colour, alpha=0.3, linewidths=0)
    ends = zip(rows[x], rows["reward"], strict=True)
    hull = upper_hull(start + [point for point in ends if not start or point[0] >= start[0][0]])
    if len(hull) > 1:  # drawn densely: a straight line of the data bends on a square-root axis
        xs = np.linspace(hull[0][0], hull[-1][0], 200)
        axes.plot(xs, np.interp(xs, *zip(*hull, strict=True)), look.line, color=look.colour)
    draw_settings(axes, look, rows, x)


def draw_settings(axes: Axes, look: MethodStyle, rows: pd.DataFrame, x: str) -> None:
    """A marker with intervals for each row of the main table: reward over `x`."""
    axes.errorbar(
        rows[x],
        rows["reward"],
        xerr=(rows[x] - rows[f"{x}_low"], rows[f"{x}_high"] - rows[x]),
        yerr=(rows["reward"] - rows["reward_low"], rows["reward_high"] - rows["reward"]),
        fmt=look.marker,
        color=look.colour,
        markersize=6.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        ecolor=(look.colour, 0.5),
        elinewidth=0.8,
        zorder=5,
    )


def legend(trained: pd.DataFrame, has_sft: bool, has_passed: bool = False) -> list[Line2D]:
    """A line a method, SFT's star, and what the small marks mean."""
    handles = []
    for method, rows in trained.groupby("method", sort=False):
        look = method_style(method)
        handles.append(
            Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker,
                   markeredgecolor="white", markersize=6.5, label=rows["label"].iloc[0])
        )  # fmt: skip
    if has_sft:
        handles.append(Line2D([], [], color="black", linestyle=":", marker="*", markersize=9, label="SFT"))
    grey = {"color": "#777777", "linestyle": "none", "markeredgewidth": 0}
    if has_passed:
        handles.append(Line2D([], [], marker=".", markersize=5, label="during training", **grey))
    handles.append(Line2D([], [], marker="$0.1$", markersize=9, label="β of a final run", **grey))
    return handles


def label_betas(figure: Figure, axes: Axes, trained: pd.DataFrame, start: list[Point], x: str, scores: Any) -> None:
    """Write each beta, and divergence, where it covers no marker, error bar or other label; else leave it out."""
    betas = {
        (s["method"], params_text(s["params"])): " ".join(s["params"][name] for name in _LABELS if name in s["params"])
        for s in scores
    }
    labels, taken = [], [(place, place) for place in start]
    for _, row in trained.iterrows():
        across, up = row[x], row["reward"]
        taken.append(((row[f"{x}_low"], up), (row[f"{x}_high"], up)))
        taken.append(((across, row["reward_low"]), (across, row["reward_high"])))
        beta = betas[row["method"], row["params"]]
        if beta:
            labels.append(Label(beta, (across, up), method_style(row["method"]).colour))
    place_labels(figure, axes, labels, taken)


@rc_context(RC)
def plot_diversity(scores: Sequence[Score]) -> Figure:
    """Mean reward over the entropy of responses (nats), a marker with intervals for each setting, SFT a star.

    The line of a method goes through its settings from the lowest reward to the highest.
    """
    trained, sft = settings_of(scores, "entropy")
    figure = new_figure(4.4)
    axes = figure.subplots()
    for method, rows in trained.groupby("method", sort=False):
        look, ordered = method_style(method), rows.sort_values("reward")
        axes.plot(ordered["entropy"], ordered["reward"], look.line, color=look.colour, linewidth=0.8, alpha=0.5)
        draw_settings(axes, look, rows, "entropy")
    start = [(float(row["entropy"]), float(row["reward"])) for _, row in sft.iterrows()]
    draw_start(axes, start)
    axes.set_xlabel("entropy: mean of −log π of a response (nats)")
    axes.set_ylabel("mean reward")
    figure.legend(handles=legend(trained, bool(start)), loc="outside lower center", ncols=4, handlelength=3.4)
    label_betas(figure, axes, trained, start, "entropy", scores)
    return figure
