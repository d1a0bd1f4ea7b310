"""What selecting tokens by an oracle's scores does: how scores add up, and the reward by share, size and data."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sparsepo.data.records import Preference
from sparsepo.methods.registry import METHODS
from sparsepo.report.figures.style import METHOD_STYLES, RC, new_figure
from sparsepo.report.run_names import params_text, short_params
from sparsepo.report.tables.grid import Score, main_table

SHARES = np.linspace(0.0, 1.0, 101)
_LOOKS = [look for method, look in METHOD_STYLES.items() if method != "sft"]
_COLUMNS = 2
_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}  # of an axes, a legend


@dataclass(frozen=True)
class Oracle:
    """`share` of the prompts it was trained on, its number of weights, and validation pairs with its scores."""

    share: float
    parameters: int
    pairs: Sequence[Preference]


@dataclass(frozen=True)
class Panel:
    """Reward against one thing. `points`: line -> (x, mean, low, high), in the order of x."""

    label: str
    logarithmic: bool
    points: Mapping[str, list[tuple[float, float, float, float]]]

    @property
    def wide(self) -> bool:
        """Whether there are two values to compare."""
        return len({point[0] for points in self.points.values() for point in points}) > 1


def accumulated(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """(101,): at each share of `SHARES` the summed score of so many of a response's highest tokens, over sum |score|.

    Numerator and denominator are means over the responses: the sum of one response alone may be near 0. Between whole
    tokens the sum is interpolated. Of lowest tokens: negate what comes in and what comes out.
    """
    curves = [
        np.interp(SHARES * len(row), np.arange(len(row) + 1), np.concatenate([[0.0], np.cumsum(np.sort(row)[::-1])]))
        for row in scores
    ]
    return np.mean(curves, 0) / (np.mean([np.abs(row).sum() for row in scores]) or 1.0)


def panels(scores: Sequence[Score], oracles: Mapping[str, Oracle]) -> list[Panel]:
    """Reward by k, by the oracle's size and by its data, of those that have two values to compare.

    By size: the oracles of the most common share of the data. By data: those of the most common size.
    """
    table = main_table(scores)
    if "reward" not in table:
        return []
    table = table[table["method"] != "sft"].reset_index(drop=True)
    given = {(score["method"], params_text(score["params"])): score["params"] for score in scores}
    rows = zip(table["method"], table["params"], strict=True)
    table["given"] = [_taken(method, given[method, params]) for method, params in rows]
    share = _commonest(oracle.share for oracle in oracles.values())
    size = _commonest(oracle.parameters for oracle in oracles.values())
    of = table["given"].map(lambda given: oracles[given["oracle"]])
    made = [
        Panel("share of chosen tokens kept, k", False, _lines(table, lambda given: given["k_chosen"], "k_chosen")),
        Panel(
            "weights of the oracle",
            True,
            _lines(table[of.map(lambda o: o.share == share)], lambda given: oracles[given["oracle"]].parameters),
        ),
        Panel(
            "share of the data that the oracle saw",
            False,
            _lines(table[of.map(lambda o: o.parameters == size)], lambda given: oracles[given["oracle"]].share),
        ),
    ]
    return [panel for panel in made if panel.wide]


def _commonest(values: Any) -> float:
    """The most common, of equally common ones the largest."""
    return max(Counter(values).items(), key=lambda item: (item[1], item[0]))[0]


def _taken(method: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a run, with the shares of tokens that it takes if it says none."""
    shares = {name: float(given.get(name, METHODS[method].masks[name])) for name in ("k_chosen", "k_rejected")}
    return {**given, **shares}


def _lines(table: pd.DataFrame, x: Any, own: str = "oracle") -> dict[str, list[tuple[float, float, float, float]]]:
    """Settings that differ in `own` alone are one line."""
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    varied = [name for name in _names(table["given"]) if name != own]
    for _, row in table.iterrows():
        rest = {name: _text(row["given"].get(name)) for name in varied}
        name = f"{row['label']}, {short_params(rest, varied)}" if rest else row["label"]
        place = float(x(row["given"]))
        lines.setdefault(name, []).append((place, row["reward"], row["reward_low"], row["reward_high"]))
    return {name: sorted(points) for name, points in lines.items()}


def _names(given: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters of which runs have different values."""
    names = dict.fromkeys(name for each in given for name in each)
    return [name for name in names if len({_text(each.get(name)) for each in given}) > 1]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@rc_context(RC)
def plot_selection(scores: Sequence[Score], oracles: Mapping[str, Oracle]) -> Figure:
    """How scores accumulate over sorted tokens, and the panels of `panels`.

    scores: of the runs that select by an oracle of `oracles`, and of SFT.
    """
    drawn = panels(scores, oracles)
    bands = -(-(1 + len(drawn)) // _COLUMNS)
    figure = new_figure(3.4 * bands)
    grid = figure.subplots(bands, _COLUMNS if drawn else 1, squeeze=False)
    _draw_accumulation(grid.flat[0], oracles)
    sft = [np.mean(score["reward"]) for score in scores if score["method"] == "sft" and score["reward"]]
    for axes, panel in zip(grid.flat[1:], drawn, strict=False):
        _draw_panel(axes, panel, sft)
    for axes in grid.flat[1 + len(drawn) :]:
        axes.set_visible(False)
    return figure


def _draw_accumulation(axes: Axes, oracles: Mapping[str, Oracle]) -> None:
    for name, label, curve, line, look in _curves(oracles):
        axes.plot(SHARES, curve, line, color=look.colour, label=f"{name}, {label}")
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_xlabel("share of tokens, sorted by score")
    axes.set_ylabel("summed score / sum of |score|")
    axes.legend(**_BELOW)


def _curves(oracles: Mapping[str, Oracle]) -> Iterator[tuple]:
    """Of chosen responses the highest tokens first, of rejected ones the lowest."""
    for (name, oracle), look in zip(oracles.items(), _LOOKS * len(oracles), strict=False):
        for side, sign, line in (("chosen", 1, "-"), ("rejected", -1, "--")):
            found = [getattr(pair, f"{side}_values") for pair in oracle.pairs]
            yield name, side, sign * accumulated([[sign * score for score in row] for row in found if row]), line, look


def _draw_panel(axes: Axes, panel: Panel, sft: Sequence[float]) -> None:
    for (name, points), look in zip(panel.points.items(), _LOOKS * len(panel.points), strict=False):
        xs, means, lows, highs = np.array(points).T
        axes.errorbar(xs, means, yerr=(means - lows, highs - means), fmt=look.marker + look.line, color=look.colour,
                      ecolor=(look.colour, 0.5), elinewidth=0.8, label=name)  # fmt: skip
    for level in sft:
        axes.axhline(level, color="black", linestyle=":", linewidth=0.8, label="SFT")
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(sorted({point[0] for points in panel.points.values() for point in points}))
        axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
    axes.set_xlabel(panel.label)
    axes.set_ylabel("mean reward")
    axes.legend(**_BELOW)
