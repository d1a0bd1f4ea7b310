"""What selecting tokens by an oracle's scores does: how scores add up, and the reward by share, size and data."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(frozen=True, eq=False)
class RewardPanel:
    """Reward over one quantity. `rows`: the `label` of a line, `x`, and `mean`, `low` and `high` of the reward."""

    label: str
    logarithmic: bool
    rows: pd.DataFrame


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
    table = grid_frame(scores).query("method != 'sft'").rename(columns={"label": "method_label"})
    if table.empty or "reward" not in table:
        return []
    given = {(score["method"], params_text(score["params"])): score["params"] for score in scores}
    settings = zip(table["method"], table["params"], strict=True)
    params = pd.DataFrame([_with_shares(method, given[method, text]) for method, text in settings], index=table.index)
    table = table.assign(
        k=params["k_chosen"],
        size=[oracles[name].parameters for name in params["oracle"]],
        share=[oracles[name].share for name in params["oracle"]],
    )
    share, size = (
        _most_common(getattr(oracle, name) for oracle in oracles.values()) for name in ("share", "parameters")
    )
    panels = [
        _panel("share of chosen tokens kept, k", False, table, params, "k", "k_chosen"),
        _panel("weights of the oracle", True, table[table["share"] == share], params, "size", "oracle"),
        _panel("share of the data that the oracle saw", False, table[table["size"] == size], params, "share", "oracle"),
    ]
    return [panel for panel in panels if panel.rows["x"].nunique() > 1]


def _panel(
    label: str, logarithmic: bool, table: pd.DataFrame, params: pd.DataFrame, x: str, varied: str
) -> RewardPanel:
    """Settings that differ only in the parameter `varied` are one line, in the order of x."""
    texts = (
        params.loc[table.index]
        .drop(columns=varied)
        .map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
    )
    names = [name for name in texts if texts[name].nunique() > 1]
    lines = [
        f"{method}, {short_params(row, names)}" if names else method
        for method, row in zip(table["method_label"], texts.to_dict("records"), strict=True)
    ]
    rows = table.assign(label=lines, x=table[x].astype(float), mean=table["reward"])
    rows = rows.rename(columns={"reward_low": "low", "reward_high": "high"})[["label", "x", "mean", "low", "high"]]
    return RewardPanel(label, logarithmic, rows.iloc[np.lexsort((rows["x"], pd.factorize(rows["label"])[0]))])


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
    styles = {line: MethodStyle(*look) for line, look in zip(panel.rows["label"].unique(), looks, strict=False)}
    scale = alt.Scale(type="log" if panel.logarithmic else "linear", zero=False, nice=False, padding=8)
    axis = (
        alt.Axis(values=sorted(panel.rows["x"].unique()), format="~s") if panel.logarithmic else alt.Axis(tickCount=6)
    )
    chart = interval_lines(
        panel.rows, alt.X("x:Q", title=panel.label, scale=scale, axis=axis), "mean reward", styles, 2
    )
    level = alt.Chart(pd.DataFrame([{"mean": mean} for mean in sft])).encode(y="mean:Q")
    name = level.mark_text(text="SFT", dy=-5, fontSize=7)
    return alt.layer(level.mark_rule(strokeDash=[1.5, 2]), name, chart)
