"""The table of how well token signals find what was planted: controls first, then the signals of each run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sparsepo.evaluation.planted_auc import CEILING, COMPARISONS
from sparsepo.evaluation.statistics import Interval, interval_of_means
from sparsepo.report.run_names import params_text
from sparsepo.report.tables.render import Block, Cell, Table, mean_with_interval, write_table

_NAMES = {
    "entropy": "entropy of the reference",
    "surprisal": "surprisal, -log ref",
    "random": "random numbers",
    "position": "index in the response",
    CEILING: "ceiling: best of the text before",
    "abs_logratio": "|log π/ref|",
    "oracle_score": "score of the oracle",
    "excess": "log oracle/π",
}
_HEADS = {
    "slots_among_slots": "slots, among open slots",
    "words_among_slots": "words, among open slots",
    "slots": "slots, all tokens",
    "words": "words, all tokens",
}
_CAPTION = (
    "ROC AUC with which a signal ranks relevant tokens above the others, over both responses of the validation pairs;"
    " 0.5 is chance.",
    "Words: the polar words and negators that are there. Slots: the positions where one may stand, given the text"
    " before; a mask of the reference's states reads no more than this text.",
    "Among open slots: against positions that are filled in the same way, by words that do not matter; this is the"
    " comparison to read first. All tokens: against every other token, certain ones too.",
    "Controls are of the reference alone and know nothing of preferences: a mask that is not above them has found its"
    " uncertainty, not what matters. |log π/ref| of any method, DPO's too, is a control without a mask.",
    "The ceiling ranks by the probability of a relevant word given the text before, by the grammar that wrote it: no"
    " function of this text ranks the grammar's own texts better; |log π/ref| and surprisal also read the token.",
)
_ONE_SEED = "± is the longer arm of the 95% bootstrap interval over pairs."
_SEEDS = " With several seeds it counts their variation and the bootstrap's variance over pairs."


def auc_frame(scores: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per signal: of the reference (controls, ceiling), then of each method and setting.

    Each comparison of `COMPARISONS` has its mean over seeds with `_low` and `_high`. scores: files of scores of runs on
    planted data, that of SFT among them; empty where no pair had both kinds of tokens.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for score in sorted(scores, key=lambda score: score["method"] != "sft"):
        groups.setdefault((score["method"], params_text(score["params"])), []).append(score)
    rows = []
    for (method, params), runs in groups.items():
        for signal in dict.fromkeys(signal for run in runs for signal in run["auc"]):
            label = {"sft": "control"}.get(method, runs[0]["label"])
            row = {"label": "ceiling" if signal == CEILING else label, "method": method, "params": params}
            row |= {"signal": signal, "seeds": len(runs)}
            for name in COMPARISONS:
                found = [run["auc"][signal][name] for run in runs if name in run["auc"].get(signal, {})]
                if found:
                    interval = _over_seeds(found)
                    row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row)
    return pd.DataFrame(rows)


def _over_seeds(found: Sequence[Mapping[str, float]]) -> Interval:
    """Over seeds and pairs, which are the same for all seeds; of one seed the interval that was measured."""
    if len(found) == 1:
        return Interval(found[0]["auc"], found[0]["low"], found[0]["high"])
    errors = [(values["high"] - values["low"]) / (2 * 1.96) for values in found]
    return interval_of_means([values["auc"] for values in found], errors)


def auc_table(frame: pd.DataFrame, provenance: str) -> Table:
    """The printed table."""
    names = [name for name in COMPARISONS if name in frame]
    rows = [
        [Cell(row["label"]), Cell(row["params"]), Cell(_NAMES.get(row["signal"], row["signal"]))]
        + [Cell(mean_with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], 2)) for name in names]
        for _, row in frame.iterrows()
    ]
    number = int((frame["method"] == "sft").sum()) if len(frame) else 0
    parts = [part for part in (rows[:number], rows[number:]) if part]
    heads = ["of", "setting", "signal", *(_HEADS[name] for name in names)]
    several = len(frame) and (frame["seeds"] > 1).any()
    caption = " ".join([*_CAPTION, _ONE_SEED + _SEEDS * bool(several)])
    return Table([Block(heads, 3, parts)], caption, (), provenance)


def write_auc(frame: pd.DataFrame, *, provenance: str, csv_bom: bool = False, **paths: Path) -> None:
    """Write the table to the csv, markdown and latex of `paths`; `provenance` says what made the numbers."""
    write_table(auc_table(frame, provenance), frame, csv_bom=csv_bom, **paths)
