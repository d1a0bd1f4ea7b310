"""The figures of the page, as Plotly specifications: drawn by the browser, in the colours and markers of `style`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from sparsepo.report.figures.dynamics import Dynamics, curves, smooth
from sparsepo.report.figures.frontier import Point, upper_hull
from sparsepo.report.figures.style import DARK_PAGE, METHOD_STYLES, SPARE_COLOURS, method_style, on_dark
from sparsepo.report.html.pack import rounded, short
from sparsepo.report.html.quantities import QUANTITIES, Quantity
from sparsepo.report.run_names import params_text, parse_run

INK, GRID = "#222222", "#E0E0E0"
DARK = {colour.upper(): on_dark(colour) for colour in (*SPARE_COLOURS, *(x.colour for x in METHOD_STYLES.values()))}
DARK |= {INK: "#E6E6E6", GRID: "#394149", "#FFFFFF": DARK_PAGE, METHOD_STYLES["sft"].colour: "#FFFFFF"}
"""Colours of the figures -> what stands in their place on a dark page."""
KLS = {"kl_exact": "exact KL to the reference", "kl_sample": "sampled KL to the reference"}
POINTS = 60
"""Of a curve, at most: what a small panel can show."""
_SYMBOLS = {
    "*": "star", "o": "circle", "<": "triangle-left", ">": "triangle-right", "h": "hexagon", "p": "pentagon",
    "s": "square", "d": "diamond-tall", "^": "triangle-up", "v": "triangle-down", "D": "diamond", "P": "cross",
    "X": "x", "8": "octagon", "H": "hexagon2",
}  # fmt: skip
_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}


Frames = Sequence[tuple[str, str, pd.DataFrame]]
"""(method, setting, mean over its seeds by step)."""


def frontier_figure(
    table: pd.DataFrame, scores: Sequence[Mapping[str, Any]], passed: Mapping[str, Sequence[Mapping]], x: str
) -> dict:
    """Reward over KL as Plotly draws it: settings with intervals, their seeds, points during training, hulls.

    table: `main_table` of the scores of all runs. passed: rows of `frontier.jsonl` by run. x: one of `KLS`. The hull of
    a method is that of its settings and SFT, the one that its frontier score measures; the points during training rest
    on one response a prompt and lie on no hull.
    """
    figure = _empty(f"{KLS[x]} (nats a response)", "mean reward")
    start = [(float(row[x]), float(row["reward"])) for row in _of(table, "sft")]
    for method in dict.fromkeys(table["method"]):
        rows = _of(table, method)
        look, label = method_style(method), rows[0]["label"]
        shared = {"name": label, "meta": {"method": method}, "mode": "markers"}
        shared |= {"hovertemplate": "%{text}<extra></extra>"}
        if method != "sft":
            ends = [(row[x], row["reward"]) for row in rows if not start or row[x] >= start[0][0]]
            figure.add_trace(_hull(start + ends, label, method))
            figure.add_trace(_during(passed, method, label, x, shared))
        seeds = [score for score in scores if score["method"] == method]
        if len(seeds) > len(rows):
            figure.add_trace(_seeds(seeds, label, x, shared))
        figure.add_trace(
            go.Scatter(
                x=short(row[x] for row in rows),
                y=short(row["reward"] for row in rows),
                text=[_setting_text(label, row, x) for row in rows],
                marker={"symbol": _SYMBOLS[look.marker], "color": look.colour, "size": 11, "line": _EDGE},
                error_x=_bars(rows, x, look.colour),
                error_y=_bars(rows, "reward", look.colour),
                **shared,
            )
        )
    return figure.to_plotly_json()


def dynamics_figures(every: Frames, labels: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Quantity -> a panel for each beta, {"title", "figure"}; all panels of a quantity share their vertical axis.

    A line is the mean over the seeds of a setting, run through by the mean of a twentieth of the steps and thinned to
    `POINTS`. Quantities that no run has logged are left out.
    """
    found = {}
    for quantity in QUANTITIES:
        panels: dict[str, list[go.Scatter]] = {}
        for method, setting, frame in every:
            for name, dash in quantity.columns.items():
                if name in frame:
                    line = _line(frame[name], method, labels[method], setting, dash, name)
                    panels.setdefault(setting.split(", ")[0], []).append(line)
        if panels:
            found[quantity.name] = _panels(panels, quantity)
    return found


def endings(every: Frames, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The last value of every curve, a row a setting: what the figures show, as numbers."""
    columns = [name for quantity in QUANTITIES for name in quantity.columns]
    return [
        {"method": labels[method], "setting": setting}
        | {name: rounded(smooth(frame[name].dropna()).iloc[-1]) for name in columns if name in frame}
        for method, setting, frame in every
    ]


def frames(dynamics: Dynamics) -> Frames:
    """Of rows of `dynamics.jsonl` by run, without columns that hold no number."""
    every = curves(dynamics, "step").items()
    return [(method, name, frame.dropna(axis=1, how="all")) for method, found in every for name, frame in found.items()]


_EDGE = {"color": "#FFFFFF", "width": 1}


def _of(table: pd.DataFrame, method: str) -> list[dict[str, Any]]:
    return table[table["method"] == method].to_dict("records")


def _hull(points: list[Point], label: str, method: str) -> go.Scatter:
    xs, ys = zip(*upper_hull(points), strict=True)
    look = method_style(method)
    return go.Scatter(
        x=short(xs), y=short(ys), mode="lines", name=f"{label}, hull", hoverinfo="skip",
        line={"color": look.colour, "dash": _DASHES[look.line], "width": 2}, meta={"method": method},
    )  # fmt: skip


def _during(passed: Mapping[str, Sequence[Mapping]], method: str, label: str, x: str, shared: dict) -> go.Scatter:
    """What was measured while training, of all runs of a method."""
    look, found = method_style(method), []
    for run, rows in passed.items():
        of, params, seed = parse_run(run)
        if of == method:
            named = f"{label} {params_text(params)}<br>seed {seed}"
            found += [(row[x], row["reward"], f"{named}, step {row['step']}<br>{_place(row, x)}") for row in rows]
    return go.Scatter(
        x=short(point[0] for point in found), y=short(point[1] for point in found),
        text=[point[2] for point in found], opacity=0.45,
        marker={"symbol": _SYMBOLS[look.marker], "color": look.colour, "size": 5}, **shared,
    )  # fmt: skip


def _seeds(scores: Sequence[Mapping[str, Any]], label: str, x: str, shared: dict) -> go.Scatter:
    """Each run by itself, where settings pool several."""
    look, points = method_style(scores[0]["method"]), []
    for score in scores:
        place = {name: sum(score[name]) / len(score[name]) for name in (x, "reward")}
        named = f"{label} {params_text(score['params'])}<br>seed {score['seed']}, at its end"
        points.append((place[x], place["reward"], f"{named}<br>{_place(place, x)}"))
    return go.Scatter(
        x=short(point[0] for point in points), y=short(point[1] for point in points),
        text=[point[2] for point in points], opacity=0.7,
        marker={"symbol": f"{_SYMBOLS[look.marker]}-open", "color": look.colour, "size": 8}, **shared,
    )  # fmt: skip


def _setting_text(label: str, row: Mapping[str, Any], x: str) -> str:
    seeds = f"{row['seeds']} seed{'s' * (row['seeds'] > 1)}, at the end"
    reward, kl = (f"{row[name]:z.3f} {bounds(row, name)}".strip() for name in ("reward", x))
    return f"{label} {row['params'].strip('-')}<br>{seeds}<br>reward {reward}<br>KL {kl} nats"


def bounds(row: Mapping[str, Any], name: str) -> str:
    """The 95% interval of a column; nothing where a single prompt gives none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if math.isnan(low) else f"[{low:z.3f}, {high:z.3f}]"


def _place(row: Mapping[str, Any], x: str) -> str:
    return f"reward {row['reward']:z.3f}<br>KL {row[x]:z.3f} nats"


def _bars(rows: list[dict[str, Any]], name: str, colour: str) -> dict[str, Any]:
    """95% intervals; of a single prompt there is none."""
    ups = short(row[f"{name}_high"] - row[name] for row in rows)
    downs = short(row[name] - row[f"{name}_low"] for row in rows)
    return {"type": "data", "array": ups, "arrayminus": downs, "color": colour, "thickness": 1, "width": 3}


def _line(values: pd.Series, method: str, label: str, setting: str, dash: str, name: str) -> go.Scatter:
    mean = smooth(values.dropna())
    mean = mean.iloc[sorted({round(place) for place in _spread(len(mean))})]
    look, side = method_style(method), name.rsplit("_", 1)[-1]
    said = f"{label} {setting}" + (f", {side}" if side in ("chosen", "rejected") else "")
    return go.Scatter(
        x=[int(step) for step in mean.index], y=short(mean), name=said, meta={"method": method},
        mode="lines+markers", line={"color": look.colour, "dash": dash, "width": 1.8},
        marker={"symbol": _SYMBOLS[look.marker], "color": look.colour, "size": 7, "maxdisplayed": 5},
        hovertemplate=f"{said}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
    )  # fmt: skip


def _spread(length: int) -> list[float]:
    """Places from the first to the last, `POINTS` at most."""
    count = min(length, POINTS)
    return [place * (length - 1) / max(1, count - 1) for place in range(count)]


def _panels(panels: Mapping[str, list[go.Scatter]], quantity: Quantity) -> list[dict[str, Any]]:
    values = [value for traces in panels.values() for trace in traces for value in trace.y if value is not None]
    margin = 0.05 * (max(values) - min(values)) or 0.05
    made = []
    for title, traces in sorted(panels.items(), key=lambda panel: _number(panel[0])):
        figure = _empty("optimiser step", quantity.axis).add_traces(traces)
        figure.update_yaxes(range=[rounded(min(values) - margin), rounded(max(values) + margin)])
        figure.update_layout(height=240, margin={"l": 56, "r": 8, "t": 8, "b": 40})
        made.append({"title": title, "figure": figure.to_plotly_json()})
    return made


def _number(title: str) -> tuple[float, str]:
    try:
        return float(title.removeprefix("β=")), title
    except ValueError:
        return float("inf"), title


def _empty(x: str, y: str) -> go.Figure:
    figure = go.Figure(layout={"template": "none", "showlegend": False, "height": 460, "hovermode": "closest"})
    figure.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"color": INK, "size": 12})
    figure.update_layout(modebar={"bgcolor": "rgba(0,0,0,0)", "color": INK, "activecolor": INK})
    figure.update_layout(margin={"l": 64, "r": 16, "t": 16, "b": 48}, hoverlabel={"align": "left"})
    for update, title in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
        update(title={"text": title}, gridcolor=GRID, linecolor=INK, zeroline=False, automargin=True)
    return figure
