"""The grid: one row per method and parameter setting, its seeds pooled, from score files."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsepo.evaluation.significance import LEVEL, holm
from sparsepo.evaluation.statistics import MIN_PROMPTS, SeedSample, difference_estimate, sample_interval, seed_sample
from sparsepo.report.run_names import params_text
from sparsepo.report.tables.cautions import cautions
from sparsepo.report.tables.render import STAR, Block, Cell, Table, format_number, mean_with_interval, write_table

ScoreFile = Mapping[str, Any]
"""The content of a file of scores of a run."""

_SIDES = ("chosen", "rejected")
_BY_LENGTH = ("longer", "shorter", "equal")
_OPTIONAL = ("logp_change_", "sparsity_", "effective_beta", "accuracy_")


@dataclass(frozen=True)
class GridColumn:
    """A printed column: of one frame column, or of two, shown as `a / b`.

    `interval` adds `±` the longer arm of the interval in the `_low` and `_high` columns; `note` explains the column in
    the caption.
    """

    head: str
    names: tuple[str, ...]
    digits: int = 0
    interval: bool = False
    note: str = ""


def _of_sides(head: str, name: str, note: str = "") -> GridColumn:
    return GridColumn(head, tuple(f"{name}_{side}" for side in _SIDES), 2, note=note)


GRID_COLUMNS = (
    GridColumn("method", ("label",)),
    GridColumn("setting", ("params",)),
    GridColumn("seeds", ("seeds",)),
    GridColumn("reward", ("reward",), 3, interval=True),
    GridColumn("KL sampled", ("kl_sample",), 2, interval=True),
    GridColumn("KL exact", ("kl_exact",), 2, interval=True),
    GridColumn("entropy", ("entropy",), 1, interval=True),
    GridColumn("distinct-1 / 2", ("distinct_1", "distinct_2"), 3),
    GridColumn("length", ("length",), 1),
    GridColumn("accuracy: chosen longer / shorter / equal", tuple(f"accuracy_{name}" for name in _BY_LENGTH), 2,
               note="Accuracy is the share of validation pairs whose chosen response has the higher implicit reward, by"
               " whether it has more tokens than the rejected one, fewer, or as many."),
    _of_sides("Δ log p", "logp_change", "Δ log p is the mean change of the summed log-probability against the reference"
              " on validation pairs, chosen / rejected, in nats."),
    GridColumn("zeros m_u / m_d", ("sparsity_m_u", "sparsity_m_d"), 3,
               note="Zeros is the share of mask weights that are exactly zero."),
    GridColumn("effective β", ("effective_beta",), 3, note="Effective β is β times the mean weight m_u of a token."),
)  # fmt: skip
"""Every printed column, in order; one of which the frame has no part is left out."""

_CAPTION = (
    "Means stand ± the longer arm of their 95% intervals, of several seeds over prompts and trainings, of one seed over"
    " prompts alone.",
    "KL is to the reference, in nats a response: sampled is the mean of log π − log ref over"
    " sampled responses, exact sums KL(π‖ref) over their tokens.",
    "Entropy is the mean of −log π of a policy's own responses, in nats. Length is in tokens.",
)
_REWARD_CAPTION = (
    "Bold: the best mean reward.",
    "Star: a better reward than SFT's on the same prompts, by a test at 5% after Holm's correction over the rows; not"
    f" with fewer than {MIN_PROMPTS} prompts.",
)


def grid_frame(scores: Sequence[ScoreFile]) -> pd.DataFrame:
    """One row per (method, params), SFT first, then in the order given.

    Reward, both KLs and entropy are means over seeds of the means of their samples, with the 95% interval in `_low` and
    `_high`, which counts prompts and, of several seeds, trainings. `reward_p_sft` is p of the difference from SFT's
    reward, after Holm's correction over the rows. What is one number per run is averaged over runs. A column that no
    score can fill (no masks) is left out.
    """
    groups: dict[tuple[str, str], list[ScoreFile]] = {}
    for score in sorted(scores, key=lambda score: score["method"] != "sft"):
        groups.setdefault((score["method"], params_text(score["params"])), []).append(score)
    frame = pd.DataFrame([_setting_row(runs) for runs in groups.values()])
    if "reward" in frame and frame["method"].iloc[0] == "sft":
        sft, *others = (_sample(runs, "reward") for runs in groups.values())
        frame["reward_p_sft"] = [math.nan, *holm([_p_value(sample, sft) for sample in others])]
    empty = [name for name in frame if name.startswith(_OPTIONAL) and frame[name].isna().all()]
    return frame.drop(columns=empty)


def write_grid(frame: pd.DataFrame, *, provenance: str, csv_bom: bool = False, **paths: Path) -> None:
    """Write the grid to the csv, markdown and latex of `paths`; `provenance` says what made the numbers."""
    write_table(grid_table(frame, provenance), frame, csv_bom=csv_bom, **paths)


def grid_table(frame: pd.DataFrame, provenance: str) -> Table:
    """The printed grid, with what to read with care as its notes."""
    columns = [column for column in GRID_COLUMNS if any(name in frame for name in column.names)]
    is_sft = frame["method"] == "sft"
    rows = [[_cell(frame, row, column) for column in columns] for _, row in frame.iterrows()]
    first, others = rows[: is_sft.sum()], rows[is_sft.sum() :]
    block = Block([column.head for column in columns], 2, [first, others] if first else [others])
    caption = [*_CAPTION, *(column.note for column in columns if column.note)]
    caption += _REWARD_CAPTION if "reward" in frame else ()
    notes = cautions(frame)
    return Table([block], " ".join(caption), notes, provenance, "Read with care:", latex_notes=False)


def _setting_row(runs: Sequence[ScoreFile]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "label": runs[0]["label"],
        "method": runs[0]["method"],
        "params": params_text(runs[0]["params"]),
        "seeds": len(runs),
    }
    rewarded = ("reward",) if runs[0]["reward"] else ()
    for name in (*rewarded, "kl_sample", "kl_exact", "entropy"):
        interval = sample_interval(_sample(runs, name))
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    row["distinct_1"] = _mean(run["distinct_1"] for run in runs)
    row["distinct_2"] = _mean(run["distinct_2"] for run in runs)
    row["length"] = _mean(tokens for run in runs for tokens in run["length"])
    for name in _BY_LENGTH:
        row[f"accuracy_{name}"] = _mean(run.get("accuracy_by_length", {}).get(name) for run in runs)
    for side in _SIDES:
        row[f"logp_change_{side}"] = _mean(run["logp_change"].get(side) for run in runs)
    for name in ("m_u", "m_d"):
        row[f"sparsity_{name}"] = _mean(share for run in runs for share in run["sparsity"].get(name, {}).values())
    for name in ("mean_weight", "effective_beta"):
        row[name] = _mean(run.get(name) for run in runs)
    return row


def _sample(runs: Sequence[ScoreFile], name: str) -> SeedSample:
    """One value of each sample; a prompt is the same under every seed."""
    values = [value for run in runs for value in run[name]]
    seeds = [place for place, run in enumerate(runs) for _ in run[name]]
    return seed_sample(values, [prompt for run in runs for prompt in run["prompt_ids"]], seeds)


def _p_value(sample: SeedSample, sft: SeedSample) -> float:
    if len(set(sample.prompts) & set(sft.prompts)) < MIN_PROMPTS:
        return math.nan
    return difference_estimate(sample, sft).p_value()


def _mean(values: Iterable[float | None]) -> float:
    """Mean of the values that are not None; nan when there are none."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else float("nan")


def _cell(frame: pd.DataFrame, row: pd.Series, column: GridColumn) -> Cell:
    values = [row.get(name) for name in column.names]
    if isinstance(values[0], str):
        return Cell(values[0])
    if column.interval:
        name = column.names[0]
        text = mean_with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], column.digits)
    else:
        numbers = [format_number(value, column.digits) for value in values]
        text = "-" if set(numbers) == {"-"} else " / ".join(numbers)
    if column.head != "reward":
        return Cell(text)
    starred = row.get("reward_p_sft", math.nan) < LEVEL and row["reward"] > frame["reward"].iloc[0]
    return Cell(text, int(row["reward"] == frame["reward"].max()), STAR if starred else "")
