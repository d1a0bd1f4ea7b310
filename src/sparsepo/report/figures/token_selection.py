"""What selecting tokens by an oracle's scores does: how scores add up, and the reward by share, size and data."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from sparsepo.data.records import Preference
from sparsepo.methods.registry import METHODS
from sparsepo.report.figures.marks import interval_lines
from sparsepo.report.figures.style import DASHES, INK, MARKERS, PALETTE, WIDTH, MethodStyle
from sparsepo.report.run_names import params_text, short_params
from sparsepo.report.tables.grid import ScoreFile, grid_frame

TOKEN_SHARES = np.linspace(0.0, 1.0, 101)
_PANEL = {"width": WIDTH / 2 - 20, "height": 160}
RunParams = Mapping[str, Any]


@dataclass(frozen=True)
class Oracle:
    """`share` of the prompts it was trained on, its number of weights, and validation pairs with its scores."""

    share: float
    parameters: int
    pairs: Sequence[Preference]


@dataclass(frozen=True)
class RewardPanel:
    """Reward over one quantity. `points`: line -> (x, mean, low, high), in the order of x."""

    label: str
    logarithmic: bool
    points: Mapping[str, list[tuple[float, float, float, float]]]

    @property
    def xs(self) -> list[float]:
        return sorted({point[0] for points in self.points.values() for point in points})


def accumulated(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """(101,): at each of `TOKEN_SHARES` the summed score of so many of a response's highest tokens, over sum |score|.

    Numerator and denominator are means over the responses: the sum of one response alone may be near 0. Between whole
    tokens the sum is interpolated. For the lowest tokens: negate the scores and the result.
    """
    sums = [np.concatenate([[0.0], np.cumsum(np.sort(row)[::-1])]) for row in scores]
    curves = [np.interp(TOKEN_SHARES * (len(row) - 1), np.arange(len(row)), row) for row in sums]
    return np.mean(curves, 0) / (np.mean([np.abs(row).sum() for row in scores]) or 1.0)


def reward_panels(scores: Sequence[ScoreFile], oracles: Mapping[str, Oracle]) -> list[RewardPanel]:
    """Reward by k, by the oracle's size and by its data, of those that have two values to compare.

    By size: the oracles of the most common share of the data. By data: those of the most common size.
    """
    table = grid_frame(scores)
    if "reward" not in table:
        return []
    table = table[table["method"] != "sft"].reset_index(drop=True)
    params = {(score["method"], params_text(score["params"])): score["params"] for score in scores}
    settings = zip(table["method"], table["params"], strict=True)
    table["run_params"] = [_with_shares(method, params[method, text]) for method, text in settings]
    share = _most_common(oracle.share for oracle in oracles.values())
    size = _most_common(oracle.parameters for oracle in oracles.values())
    row_oracles = table["run_params"].map(lambda params: oracles[params["oracle"]])
    same_share = table[[oracle.share == share for oracle in row_oracles]]
    same_size = table[[oracle.parameters == size for oracle in row_oracles]]
    by_k = _lines(table, lambda params: params["k_chosen"], "k_chosen")
    by_size = _lines(same_share, lambda params: oracles[params["oracle"]].parameters, "oracle")
    by_share = _lines(same_size, lambda params: oracles[params["oracle"]].share, "oracle")
    panels = [
        RewardPanel("share of chosen tokens kept, k", False, by_k),
        RewardPanel("weights of the oracle", True, by_size),
        RewardPanel("share of the data that the oracle saw", False, by_share),
    ]
    return [panel for panel in panels if len(panel.xs) > 1]


def plot_selection(scores: Sequence[ScoreFile], oracles: Mapping[str, Oracle]) -> alt.ConcatChart:
    """How scores accumulate over sorted tokens, and the panels of `reward_panels`.

    scores: of the runs that select by an oracle of `oracles`, and of SFT.
    """
    sft = [fmean(score["reward"]) for score in scores if score["method"] == "sft" and score["reward"]]
    panels = [_accumulation(oracles), *(_draw(panel, sft) for panel in reward_panels(scores, oracles))]
    chart = alt.concat(*(panel.properties(**_PANEL) for panel in panels), columns=2)
    return chart.resolve_scale(color="independent", shape="independent", strokeDash="independent")


def _most_common(values: Iterable[float]) -> float:
    """The most common value, of equally common ones the largest."""
    return max(Counter(values).items(), key=lambda item: (item[1], item[0]))[0]


def _with_shares(method: str, params: RunParams) -> dict[str, Any]:
    """The parameters of a run, with the shares of tokens that its method takes where it names none."""
    shares = {name: float(params.get(name, METHODS[method].masks[name])) for name in ("k_chosen", "k_rejected")}
    return {**params, **shares}


def _lines(table: pd.DataFrame, x: Callable[[RunParams], float], varied: str) -> dict[str, list[tuple]]:
    """Settings that differ only in the parameter `varied` are one line."""
    lines: dict[str, list[tuple]] = {}
    names = [name for name in _varying(list(table["run_params"])) if name != varied]
    for row in table.to_dict("records"):
        texts = {name: _text(row["run_params"].get(name)) for name in names}
        line = f"{row['label']}, {short_params(texts, names)}" if names else row["label"]
        point = (float(x(row["run_params"])), row["reward"], row["reward_low"], row["reward_high"])
        lines.setdefault(line, []).append(point)
    return {line: sorted(points) for line, points in lines.items()}


def _varying(all_params: Sequence[RunParams]) -> list[str]:
    """The parameters in which runs differ."""
    names = dict.fromkeys(name for params in all_params for name in params)
    return [name for name in names if len({_text(params.get(name)) for params in all_params}) > 1]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _accumulation(oracles: Mapping[str, Oracle]) -> alt.LayerChart:
    """For chosen responses the highest tokens come first, for rejected ones the lowest."""
    curves = []
    for name, oracle in oracles.items():
        for side, sign in (("chosen", 1), ("rejected", -1)):
            scores = [getattr(pair, f"{side}_values") for pair in oracle.pairs]
            curve = sign * accumulated([[sign * score for score in row] for row in scores if row])
            curves.append(pd.DataFrame({"x": TOKEN_SHARES, "y": curve}).assign(oracle=name, side=side))
    legend = alt.Legend(title=None, symbolType="stroke", columns=2)
    lines = alt.Chart(pd.concat(curves)).mark_line(strokeWidth=1.2).encode(
        alt.X("x:Q", title="share of tokens, sorted by score"),
        alt.Y("y:Q", title="summed score / sum of |score|"),
        alt.Color("oracle:N", legend=legend).scale(domain=list(oracles), range=[*PALETTE[: len(oracles)]]),
        alt.StrokeDash("side:N", legend=legend).scale(domain=["chosen", "rejected"], range=[*DASHES[:2]]),
    )  # fmt: skip
    zero = alt.Chart(pd.DataFrame([{"y": 0}])).mark_rule(color=INK, strokeWidth=0.6).encode(y="y:Q")
    return alt.layer(zero, lines)


def _draw(panel: RewardPanel, sft: Sequence[float]) -> alt.LayerChart:
    looks = zip(PALETTE, MARKERS * 2, DASHES * 8, strict=False)
    styles = {line: MethodStyle(*look) for line, look in zip(panel.points, looks, strict=False)}
    points = [(line, *point) for line, own in panel.points.items() for point in own]
    rows = pd.DataFrame(points, columns=["label", "x", "mean", "low", "high"])
    scale = alt.Scale(type="log" if panel.logarithmic else "linear", zero=False, nice=False, padding=8)
    axis = alt.Axis(values=panel.xs, format="~s") if panel.logarithmic else alt.Axis(tickCount=6)
    chart = interval_lines(rows, alt.X("x:Q", title=panel.label, scale=scale, axis=axis), "mean reward", styles, 2)
    level = alt.Chart(pd.DataFrame([{"mean": mean} for mean in sft])).encode(y="mean:Q")
    name = level.mark_text(text="SFT", dy=-5, fontSize=7)
    return alt.layer(level.mark_rule(strokeDash=[1.5, 2]), name, chart)
