import re

import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from sparsepo.report.tables.cautions import cautions
from sparsepo.report.tables.grid import grid_frame, grid_table, write_grid
from sparsepo.report.tables.render import escaped_latex

SFT = {
    "method": "sft",
    "label": "SFT",
    "params": {},
    "seed": None,
    "prompt_ids": [0, 0, 1, 1],
    "reward": [0.1, 0.3, 0.2, 0.2],
    "kl_sample": [0.0, 0.0, 0.0, 0.0],
    "kl_exact": [0.0, 0.0, 0.0, 0.0],
    "entropy": [8.0, 9.0, 10.0, 13.0],
    "length": [10, 20, 30, 40],
    "distinct_1": 0.5,
    "distinct_2": 0.75,
    "auc": {},
    "sparsity": {},
    "logp_change": {},
}
DPO = SFT | {
    "method": "dpo",
    "label": "DPO",
    "params": {"beta": "0.1"},
    "seed": 0,
    "reward": [0.6, 0.7, 0.8, 0.9],
    "kl_sample": [-1.0, 1.0, 2.0, 2.0],
    "kl_exact": [1.0, 2.0, 3.0, 4.0],
    "logp_change": {"chosen": -1.5, "rejected": -4.0},
}


def _row(label, method, reward, low, high, **rest):
    """A table row; what a test does not name is unremarkable."""
    kl = {"kl_sample": 1.0, "kl_sample_low": 0.9, "kl_sample_high": 1.2}
    kl |= {"kl_exact": 1.0, "kl_exact_low": 0.95, "kl_exact_high": 1.05}
    kl |= {"entropy": 30.0, "entropy_low": 29.5, "entropy_high": 30.7}
    text = {"label": label, "method": method, "params": "-" if method == "sft" else "beta=0.1"}
    values = {"seeds": 3, "reward": reward, "reward_low": low, "reward_high": high}
    more = {"distinct_1": 0.1, "distinct_2": 0.25, "length": 20.04}
    return text | values | kl | more | rest


def _frame(*rows):
    return pd.DataFrame([_row("SFT", "sft", 0.5, 0.49, 0.52), *rows])


def _written(frame, tmp_path):
    paths = {kind: tmp_path / f"main.{kind}" for kind in ("csv", "markdown", "latex")}
    write_grid(frame, **paths, provenance="config_a.yaml, 50% of a & b")
    return {kind: path.read_text(encoding="utf-8") for kind, path in paths.items()}


def test_sft_comes_first_and_the_methods_in_the_order_given():
    table = grid_frame([DPO | {"method": "tdpo1"}, SFT, DPO, DPO | {"params": {"beta": "0.5"}}])
    assert list(table["method"]) == ["sft", "tdpo1", "dpo", "dpo"]
    assert list(table["params"]) == ["-", "beta=0.1", "beta=0.1", "beta=0.5"]


def test_a_row_pools_the_samples_of_all_seeds():
    other = DPO | {"seed": 1, "reward": [0.2, 0.2, 0.2, 0.2]}
    other |= {"logp_change": {"chosen": 0.5, "rejected": -2.0}, "distinct_1": 0.1}
    row = grid_frame([SFT, DPO, other]).iloc[1]
    assert row["seeds"] == 2
    assert row["reward"] == pytest.approx((0.6 + 0.7 + 0.8 + 0.9 + 4 * 0.2) / 8)
    assert row["reward_low"] < row["reward"] < row["reward_high"]
    assert (row["kl_sample"], row["kl_exact"], row["length"]) == (1.0, 2.5, 25.0)
    assert (row["logp_change_chosen"], row["logp_change_rejected"]) == (-0.5, -3.0)
    assert row["distinct_1"] == pytest.approx(0.3)
    assert row["entropy"] == 10.0 and row["entropy_low"] < 10.0 < row["entropy_high"]


def test_sampling_a_prompt_more_often_does_not_narrow_the_interval():
    once = DPO | {"reward": [0.1, 0.4, 0.5, 0.9], "prompt_ids": [0, 1, 2, 3]}
    often = {key: once[key] * 10 for key in ("reward", "prompt_ids", "kl_sample", "kl_exact", "entropy")}
    first, second = grid_frame([once]).iloc[0], grid_frame([once | often]).iloc[0]
    for bound in ("reward_low", "reward_high"):
        assert first[bound] == pytest.approx(second[bound])


@pytest.mark.parametrize("seeds", [3, 9])
def test_copies_of_a_seed_do_not_narrow_the_interval(seeds):
    """Seeds share their prompts; each (seed, prompt) pair was resampled, and nine copies gave a third of the width."""
    once, *_, often = (grid_frame([DPO | {"seed": seed} for seed in range(count)]).iloc[0] for count in (1, seeds))
    for bound in ("reward_low", "reward_high"):
        assert often[bound] == pytest.approx(once[bound], rel=5e-3)


def _many(method, rewards, **rest):
    """One sample of each prompt."""
    zeros = {name: [0.0] * len(rewards) for name in ("kl_sample", "kl_exact", "entropy", "length")}
    return DPO | {"method": method, "reward": list(rewards), "prompt_ids": list(range(len(rewards)))} | zeros | rest


def test_p_against_sft_is_corrected_over_the_rows_and_needs_ten_prompts():
    """Holm takes the smaller of two twice."""
    level = [0.3 * at for at in range(12)]
    gains = [2.0, 0.0] * 6
    sft = _many("sft", level, params={}, seed=None)
    rows = [sft, _many("dpo", [a + b for a, b in zip(level, gains, strict=True)]), _many("ipo", level)]
    assert grid_frame(rows)["reward_p_sft"].tolist()[1:] == pytest.approx([2 * ttest_1samp(gains, 0).pvalue, 1.0])
    few = [_many("sft", level[:9], params={}, seed=None), _many("dpo", [value + 5 for value in level[:9]])]
    assert grid_frame(few)["reward_p_sft"].isna().all()


def test_columns_that_no_score_fills_are_dropped():
    masked = DPO | {"sparsity": {"m_u": {"chosen": 0.2, "rejected": 0.4}}}
    columns = set(grid_frame([SFT, masked]).columns)
    assert "sparsity_m_u" in columns and "sparsity_m_d" not in columns
    assert grid_frame([SFT, masked])["sparsity_m_u"].iloc[1] == pytest.approx(0.3)
    plain = grid_frame([SFT]).columns
    assert not [name for name in plain if name.startswith(("sparsity", "logp"))]


def test_a_single_prompt_has_a_mean_and_no_interval(tmp_path):
    table = grid_frame([SFT, DPO | {"prompt_ids": [3, 3, 3, 3]}])
    assert table["reward_low"].isna().tolist() == [True, True]  # SFT's two prompts are equal
    assert "| **0.750** | 1.00 | 2.50 |" in _written(table, tmp_path)["markdown"]


def test_the_csv_keeps_six_significant_digits_and_no_comment(tmp_path):
    text = _written(_frame(_row("DPO", "dpo", 0.123456789, 0.1, 0.2)), tmp_path)["csv"]
    assert text.startswith("label,method,params,seeds,reward,reward_low,reward_high,kl_sample,")
    assert "0.123457,0.1,0.2," in text
    assert len(text.splitlines()) == 3


def test_markdown_shows_mean_and_the_longer_arm_with_the_best_bold_and_starred(tmp_path):
    rows = [
        _row("DPO", "dpo", 0.512, 0.503, 0.525),
        _row("TDPO", "tdpo1", 0.7, 0.65, 0.74, reward_p_sft=0.01),
        _row("IPO", "ipo", 0.6, 0.521, 0.61, reward_p_sft=0.049),
        _row("SimPO", "simpo", 0.4, 0.35, 0.45, reward_p_sft=0.01),
    ]
    text = _written(_frame(*rows), tmp_path)["markdown"]
    assert "| 0.512 ± 0.013 |" in text
    assert r"| **0.700 ± 0.050**\* |" in text
    assert r"| 0.600 ± 0.079\* | 1.00 ± 0.20 | 1.00 ± 0.05 | 30.0 ± 0.7 | 0.100 / 0.250 | 20.0 |" in text
    assert r"| 0.400 ± 0.050 |" in text and "Star: a better reward than SFT's" in text
    assert text.rstrip().endswith("config_a.yaml, 50% of a & b")


def test_a_pair_with_one_value_missing_shows_the_other(tmp_path):
    row = _row("MaPO", "mapo", 0.6, 0.5, 0.7, sparsity_m_u=0.12, sparsity_m_d=float("nan"))
    text = _written(_frame(row), tmp_path)["markdown"]
    assert text.splitlines()[2].endswith("| 20.0 | - |")
    assert text.splitlines()[3].endswith("| 20.0 | 0.120 / - |")


def test_a_mean_that_rounds_to_zero_has_no_minus_sign(tmp_path):
    row = _row("DPO", "dpo", 0.6, 0.5, 0.7, kl_sample=-1e-9)
    assert "-0.00" not in _written(_frame(row), tmp_path)["markdown"]


def test_latex_balances_its_braces_and_escapes_what_is_special(tmp_path):
    row = _row("my_method 50% & {x} #1 ~^\\", "dpo", 0.6, 0.5, 0.7, params="mask_l1=0.1")
    row |= {"logp_change_chosen": -1.5, "logp_change_rejected": -3.0, "sparsity_m_u": 0.25}
    text = _written(_frame(row), tmp_path)["latex"]
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[\\{}%&#$_]", "", body.replace("{!}{%\n", "{!}{\n"))
    depths = [plain[:end].count("{") - plain[:end].count("}") for end in range(len(plain) + 1)]
    assert min(depths) == 0 and depths[-1] == 0
    assert "%" not in plain and "#" not in plain and plain.count("$") % 2 == 0
    assert re.findall(r"_", re.sub(r"\$[^$]*\$", "", plain)) == []
    rows = [line for line in plain.splitlines() if "&" in line]
    wide = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text).group(1))
    assert len(rows) == 3 and {row.count("&") + 1 for row in rows} == {wide}
    assert r"$-$1.50 / $-$3.00" in text and r"\textbf{0.600 $\pm$ 0.100}" in text
    assert text.startswith("% config_a.yaml, 50% of a & b\n")


def test_latex_is_made_of_ascii_alone(tmp_path):
    text = _written(_frame(_row("DPO", "dpo", 0.6, 0.5, 0.7, logp_change_chosen=-1)), tmp_path)
    assert text["latex"].isascii()


def test_masks_are_set_as_maths_in_latex():
    assert escaped_latex("AUC m_u of a_m_u") == r"AUC $m_u$ of a\_m\_u"


def test_cautions_names_what_is_not_above_sft():
    frame = _frame(_row("DPO", "dpo", 0.5, 0.4, 0.6), _row("TDPO", "tdpo1", 0.6, 0.55, 0.7))
    assert cautions(frame) == ["The mean reward is not above SFT's (0.500): DPO (beta=0.1)."]


def test_cautions_says_when_there_is_one_seed():
    found = cautions(_frame(_row("DPO", "dpo", 0.6, 0.5, 0.7, seeds=1)))
    assert found == ["One seed a row: the intervals cover the sampling of prompts only, not training."]


def test_cautions_names_rows_with_one_seed_among_others():
    rows = [_row("DPO", "dpo", 0.6, 0.5, 0.7, seeds=1), _row("IPO", "ipo", 0.6, 0.5, 0.7)]
    (found,) = cautions(_frame(*rows))
    assert found.startswith("One seed, so the intervals do not cover") and found.endswith(": DPO (beta=0.1).")


def test_cautions_warns_of_falling_chosen_log_probs_exploding_kl_and_dead_masks():
    rows = [
        _row("A", "a", 0.6, 0.5, 0.7, logp_change_chosen=-0.1, sparsity_m_u=0.995, kl_exact=0.1),
        _row("B", "b", 0.6, 0.5, 0.7, logp_change_chosen=0.1, sparsity_m_u=0.0),
        _row("C", "c", 0.6, 0.5, 0.7, logp_change_chosen=0.2, sparsity_m_u=0.5, kl_exact=10.5),
    ]
    assert cautions(_frame(*rows)) == [
        "The log-probability of the chosen responses fell: A (beta=0.1).",
        "The exact KL is over ten times this table's median: C (beta=0.1).",
        "The mask m_u is dead (over 99% of its weights are zero): A (beta=0.1).",
        "The mask m_u has no exact zero: B (beta=0.1).",
    ]


def test_cautions_finds_nothing_wrong_with_a_good_table():
    assert cautions(_frame(_row("DPO", "dpo", 0.6, 0.55, 0.7))) == []


def test_cautions_of_sft_alone_is_empty():
    assert cautions(_frame()) == []


def test_accuracy_stands_by_which_response_is_longer_as_the_mean_over_seeds():
    own = {"longer": 0.75, "shorter": 0.25, "equal": None}
    other = {"longer": 0.25, "shorter": 0.25, "equal": None}
    frame = grid_frame([SFT, *(DPO | {"seed": seed, "accuracy_by_length": by} for seed, by in enumerate((own, other)))])
    assert frame.loc[1, ["accuracy_longer", "accuracy_shorter"]].tolist() == [0.5, 0.25]
    block = grid_table(frame, "").blocks[0]
    place = list(block.heads).index("accuracy: chosen longer / shorter / equal")
    assert [row[place].text for part in block.parts for row in part][-1] == "0.50 / 0.25 / -"
