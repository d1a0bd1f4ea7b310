"""The table of AUCs: controls first, one row a signal, and where an interval comes from."""

import pytest
from scipy import stats

from sparsepo.report.tables.planted_auc import auc_frame, auc_table, write_auc
from sparsepo.report.tables.render import to_markdown


def auc(value, width=0.1):
    return {name: {"auc": value, "low": value - width, "high": value + width / 2} for name in ("slots", "words")}


SFT = {"method": "sft", "label": "SFT", "params": {}, "auc": {"entropy": auc(0.5), "ceiling": auc(0.99, 0.0)}}
DPO = {"method": "dpo", "label": "DPO", "params": {"beta": "0.1"}, "auc": {"abs_logratio": auc(0.7)}}
SPARSE = {"method": "sparsepo_common", "label": "SparsePO", "params": {"beta": "0.1"}}
SPARSE |= {"auc": {"m_u": auc(0.8), "abs_logratio": auc(0.75)}}


def test_controls_come_first_and_each_signal_of_each_setting_has_a_row():
    frame = auc_frame([DPO, SPARSE, SFT])
    assert frame[["label", "signal"]].to_numpy().tolist() == [
        ["control", "entropy"],
        ["ceiling", "ceiling"],
        ["DPO", "abs_logratio"],
        ["SparsePO", "m_u"],
        ["SparsePO", "abs_logratio"],
    ]
    assert frame["slots_low"].tolist() == pytest.approx([0.4, 0.99, 0.6, 0.7, 0.65])
    assert "slots_among_slots" not in frame


def test_one_seed_shows_the_longer_arm_over_pairs_and_says_so():
    text = to_markdown(auc_table(auc_frame([SFT, DPO]), "made here"))
    assert "| control | - | entropy of the reference | 0.50 ± 0.10 | 0.50 ± 0.10 |" in text
    assert r"| DPO | beta=0.1 | \|log π/ref\| | 0.70 ± 0.10 | 0.70 ± 0.10 |" in text
    assert "bootstrap interval over pairs" in text and "Student" not in text


def test_several_seeds_count_their_variation_and_that_of_the_pairs():
    """Where the error over pairs is small it is Student's interval; equal seeds keep the error over pairs."""
    values = [0.6, 0.7, 0.9]
    frame = auc_frame(
        [SFT, *(DPO | {"seed": seed, "auc": {"abs_logratio": auc(v, 1e-6)}} for seed, v in enumerate(values))]
    )
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    row = frame.iloc[2]
    assert (row["seeds"], row["words"]) == (3, pytest.approx(2.2 / 3))
    assert [row["words_low"], row["words_high"]] == pytest.approx([low, high], abs=5e-4)
    assert "With several seeds" in to_markdown(auc_table(frame, "made here"))
    equal = auc_frame([SFT, *(DPO | {"seed": seed} for seed in range(3))]).iloc[2]
    assert equal["words_high"] - equal["words_low"] == pytest.approx(0.15 * 1.959964 / 1.96)


def test_a_run_without_relevant_tokens_has_empty_cells():
    frame = auc_frame([SFT, DPO | {"auc": {"abs_logratio": {}}}])
    assert "log π/ref" in (text := to_markdown(auc_table(frame, "made here")))
    assert text.splitlines()[4].endswith("| - | - |")


def test_three_files_are_written(tmp_path):
    paths = {name: tmp_path / name for name in ("csv", "markdown", "latex")}
    write_auc(auc_frame([SFT, DPO]), provenance="made here", **paths)
    assert paths["csv"].read_text().startswith("label,method,params,signal,seeds,slots,slots_low,slots_high,words,")
    assert paths["markdown"].read_text().endswith("made here\n") and "toprule" in paths["latex"].read_text()
