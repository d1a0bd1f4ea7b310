"""The leaderboard's columns against hand numbers, published figures and lm-eval's own task files."""

import importlib.metadata
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from sparsepo.evaluation.lm_eval.leaderboard import AVERAGED, LEADERBOARD, average, columns, normalised, standard_errors
from sparsepo.runtime.errors import UserError

SIZES = {"gpqa_diamond": 198, "gpqa_extended": 546, "gpqa_main": 448}  # questions of GPQA


def results(**numbers: dict[str, float]) -> dict:
    """As of lm-eval: every subtask at accuracy 1, but for `numbers`."""
    made = {
        f"leaderboard_{task}": {
            "sample_len": SIZES.get(task, 10),
            f"{column.metric},none": 1.0,
            f"{column.metric}_stderr,none": 0.1,
        }
        for column in LEADERBOARD.values()
        for task in column.choices
    }
    for column in LEADERBOARD.values():  # MATH and IFEval have two metrics each
        for task in column.choices:
            made[f"leaderboard_{task}"] |= {f"{column.metric},none": 1.0, f"{column.metric}_stderr,none": 0.1}
    for task, changed in numbers.items():
        made[f"leaderboard_{task}"] |= changed
    return made


def test_the_documentations_gpqa_example_gives_46_67():
    assert round(normalised(0.6, 4), 2) == 46.67
    found = columns(results(**{task: {"acc_norm,none": 0.6} for task in SIZES}), ["gpqa"])
    assert round(found["gpqa"], 2) == 46.67


def test_chance_is_zero_below_chance_too_and_perfection_is_a_hundred():
    assert [normalised(score, 5) for score in (0.0, 0.1, 0.2, 1.0)] == [0, 0, 0, 100]
    assert list(columns(results()).values()) == pytest.approx([100] * len(LEADERBOARD))


def test_each_subtask_of_musr_has_its_own_chance_level():
    raw = {"musr_murder_mysteries": 0.75, "musr_object_placements": 0.1, "musr_team_allocation": 0.5}
    found = columns(results(**{task: {"acc_norm,none": score} for task, score in raw.items()}), ["musr"])
    assert found["musr"] == pytest.approx((50 + 0 + 25) / 3)  # (3/4 - 1/2)/(1/2), below 1/5, (1/2 - 1/3)/(2/3)


@pytest.mark.parametrize("right, published", [(312, 1.57), (331, 3.69), (347, 5.48), (330, 3.58), (340, 4.70)])
def test_figures_of_gpqa_on_the_leaderboard_are_pooled_questions(right, published):
    """Printed on model cards by the leaderboard itself. All right answers lie in two subsets, one is below chance."""
    split = {"gpqa_diamond": 20, "gpqa_extended": 180, "gpqa_main": right - 200}
    raw = {task: {"acc_norm,none": split[task] / SIZES[task]} for task in SIZES}
    found = columns(results(**raw), ["gpqa"])
    by_hand = 100 * (Fraction(right, 1192) - Fraction(1, 4)) / Fraction(3, 4)
    assert found["gpqa"] == pytest.approx(float(by_hand))
    assert found["gpqa"] == pytest.approx(published, abs=0.00501)


def test_math_is_reported_by_both_of_its_metrics():
    one = {"exact_match,none": 0.5, "exact_match_original,none": 0.2, "sample_len": 40}
    found = columns(results(**{task: one for task in LEADERBOARD["math"].choices}), ["math", "math_verify"])
    assert found == {"math": pytest.approx(20), "math_verify": pytest.approx(50)}


def test_the_average_of_the_papers_sft_row_is_the_one_it_prints():
    """arXiv 2410.05102, Table 1: instruction and prompt level of IFEval count as two columns of seven."""
    printed = dict(bbh=2.87, math=0.30, gpqa=0.78, musr=4.02, mmlu_pro=1.71, ifeval_inst=25.90, ifeval_prompt=14.97)
    assert round(average(printed), 2) == 7.22
    assert average(printed | {"math_verify": 99.0}) == average(printed)


def test_the_standard_error_of_a_column_follows_its_weights_and_its_chance_levels():
    found = results(
        musr_murder_mysteries={"acc_norm_stderr,none": 0.03}, ifeval={"inst_level_strict_acc_stderr,none": "N/A"}
    )
    errors = standard_errors(found, ["musr", "mmlu_pro", "ifeval_inst", "gpqa"])
    thirds = [0.03 / (1 / 2), 0.1 / (4 / 5), 0.1 / (2 / 3)]
    assert errors["musr"] == pytest.approx(100 * sum(third**2 for third in thirds) ** 0.5 / 3)
    assert errors["mmlu_pro"] == pytest.approx(100 * 0.1 / 0.9)
    assert errors["ifeval_inst"] is None
    assert errors["gpqa"] == pytest.approx(100 / 0.75 * 0.1 * sum((n / 1192) ** 2 for n in SIZES.values()) ** 0.5)


def test_a_missing_subtask_is_named():
    found = results()
    del found["leaderboard_bbh_snarks"]
    with pytest.raises(UserError, match="lack the subtask 'leaderboard_bbh_snarks'"):
        columns(found)
    assert columns(found, ["gpqa"]) == {"gpqa": pytest.approx(100)}


def test_a_missing_metric_is_named_with_its_subtask():
    found = results()
    del found["leaderboard_math_algebra_hard"]["exact_match_original,none"]
    with pytest.raises(UserError, match="leaderboard_math_algebra_hard: .* no 'exact_match_original'"):
        columns(found, ["math"])


def test_an_average_of_fewer_than_seven_columns_is_refused():
    with pytest.raises(UserError, match="missing: gpqa"):
        average({name: 1.0 for name in AVERAGED if name != "gpqa"})


def test_the_numbers_of_choices_are_those_of_lm_evals_task_files():
    """Read as plain YAML, without lm-eval: the list of choices where a task file has one."""
    try:
        files = importlib.metadata.files("lm-eval")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("lm-eval is not installed")
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("!", lambda *_: None)
    folder = "lm_eval/tasks/leaderboard/"
    paths = [Path(file.locate()) for file in files if file.as_posix().startswith(folder) and file.suffix == ".yaml"]
    found = [yaml.load(path.read_text(), Loader=loader) for path in paths]
    named = {task["task"]: task.get("doc_to_choice") for task in found if isinstance(task.get("task"), str)}
    counts = {f"leaderboard_{name}": count for column in LEADERBOARD.values() for name, count in column.choices.items()}
    assert set(named) == set(counts) and len(counts) == 39
    listed = {name: len(choices) for name, choices in named.items() if isinstance(choices, list)}
    assert len(listed) == 24 and listed == {name: counts[name] for name in listed}
