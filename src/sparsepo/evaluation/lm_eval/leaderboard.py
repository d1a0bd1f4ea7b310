"""The Open LLM Leaderboard 2: seven columns, 0 (chance) to 100, out of the 39 subtasks that lm-eval runs.

A raw accuracy s with chance level b counts as 100 max(0, (s - b) / (1 - b)). BBH and MuSR are plain means over their
normalised subtasks, each with its own chance level. GPQA, MATH and MMLU-Pro are one task each: their questions are
pooled before normalisation (a GPQA accuracy of 0.6 gives 46.67, the example of the leaderboard's documentation).
Its published figures are whole numbers of right answers out of 1,192 questions (GPQA) and 1,324 (MATH), as pooling
gives and means over subtasks do not. Source: huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from sparsepo.runtime.errors import UserError

GENERATED = 0  # number of choices where the answer is free text: chance level 0
FILTER = "none"  # lm-eval's name for answers taken as they are


@dataclass(frozen=True)
class LeaderboardColumn:
    """`group` is the task of lm-eval that holds the subtasks, `choices` the number of choices of each subtask."""

    group: str
    metric: str
    choices: dict[str, int]
    pooled: bool = False  # over the questions of all subtasks, not over subtasks


BBH = {
    "boolean_expressions": 2, "causal_judgement": 2, "date_understanding": 6, "disambiguation_qa": 3,
    "formal_fallacies": 2, "geometric_shapes": 11, "hyperbaton": 2, "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7, "logical_deduction_three_objects": 3, "movie_recommendation": 6,
    "navigate": 2, "object_counting": 19, "penguins_in_a_table": 5, "reasoning_about_colored_objects": 18,
    "ruin_names": 6, "salient_translation_error_detection": 6, "snarks": 2, "sports_understanding": 2,
    "temporal_sequences": 4, "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7, "tracking_shuffled_objects_three_objects": 3, "web_of_lies": 2,
}  # fmt: skip
SUBJECTS = "algebra counting_and_prob geometry intermediate_algebra num_theory prealgebra precalculus".split()
MATH = {f"math_{subject}_hard": GENERATED for subject in SUBJECTS}
GPQA = {"gpqa_diamond": 4, "gpqa_extended": 4, "gpqa_main": 4}
MUSR = {"musr_murder_mysteries": 2, "musr_object_placements": 5, "musr_team_allocation": 3}
IFEVAL = {"ifeval": GENERATED}
FOLLOWING = "leaderboard_instruction_following"

LEADERBOARD = {
    "bbh": LeaderboardColumn("leaderboard_bbh", "acc_norm", {f"bbh_{name}": count for name, count in BBH.items()}),
    # `exact_match` was this in 2024, when the leaderboard ran and the paper appeared; now it is math-verify's
    "math": LeaderboardColumn("leaderboard_math_hard", "exact_match_original", MATH, pooled=True),
    "math_verify": LeaderboardColumn("leaderboard_math_hard", "exact_match", MATH, pooled=True),
    "gpqa": LeaderboardColumn("leaderboard_gpqa", "acc_norm", GPQA, pooled=True),
    "musr": LeaderboardColumn("leaderboard_musr", "acc_norm", MUSR),
    "mmlu_pro": LeaderboardColumn("leaderboard_mmlu_pro", "acc", {"mmlu_pro": 10}, pooled=True),
    "ifeval_inst": LeaderboardColumn(FOLLOWING, "inst_level_strict_acc", IFEVAL),
    "ifeval_prompt": LeaderboardColumn(FOLLOWING, "prompt_level_strict_acc", IFEVAL),
}
AVERAGED = ("bbh", "math", "gpqa", "musr", "mmlu_pro", "ifeval_inst", "ifeval_prompt")


def columns(results: Mapping[str, Mapping[str, Any]], names: Iterable[str] = LEADERBOARD) -> dict[str, float]:
    """The columns `names`, 0-100, of the `results` of lm-eval (per task, "metric,filter" to a number from 0 to 1).

    Raises UserError naming a subtask or metric that is missing.
    """
    values = {}
    for name in names:
        column = LEADERBOARD[name]
        weights, raw = _weights(results, column), _numbers(results, column, column.metric)
        if column.pooled:
            (choices,) = set(column.choices.values())
            values[name] = normalised(sum(weights[task] * raw[task] for task in raw), choices)
        else:
            values[name] = sum(weights[task] * normalised(raw[task], count) for task, count in column.choices.items())
    return values


def standard_errors(results: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, float | None]:
    """The standard errors of `columns`, on the same scale; None where lm-eval gives none.

    Subtasks are independent; the floor at chance level is ignored, which makes the errors a little too large.
    """
    errors: dict[str, float | None] = {}
    for name in names:
        column = LEADERBOARD[name]
        weights, raw = _weights(results, column), _numbers(results, column, f"{column.metric}_stderr")
        if any(isinstance(error, str) for error in raw.values()):
            errors[name] = None  # lm-eval says "N/A"
        else:
            scaled = (weights[task] * raw[task] / (1 - _chance(count)) for task, count in column.choices.items())
            errors[name] = 100 * sqrt(sum(value**2 for value in scaled))
    return errors


def average(values: Mapping[str, float]) -> float:
    """AVG of the paper's Table 1: the mean of seven columns, two of them of IFEval."""
    missing = [name for name in AVERAGED if name not in values]
    if missing:
        raise UserError(f"the leaderboard's average needs all of {', '.join(AVERAGED)}; missing: {', '.join(missing)}")
    return sum(values[name] for name in AVERAGED) / len(AVERAGED)


def normalised(accuracy: float, choices: int) -> float:
    """100 max(0, (s - b) / (1 - b)) for an accuracy s in [0, 1] and the chance level b of `choices`."""
    return 100 * max(0.0, (accuracy - _chance(choices)) / (1 - _chance(choices)))


def _weights(results: Mapping[str, Mapping[str, Any]], column: LeaderboardColumn) -> dict[str, float]:
    """The share of each subtask in its column, by questions if they are pooled."""
    sizes = {task: _result(results, task)["sample_len"] if column.pooled else 1 for task in column.choices}
    return {task: size / sum(sizes.values()) for task, size in sizes.items()}


def _numbers(results: Mapping[str, Mapping[str, Any]], column: LeaderboardColumn, metric: str) -> dict[str, Any]:
    key = f"{metric},{FILTER}"
    for task in column.choices:
        if key not in _result(results, task):
            raise UserError(f"leaderboard_{task}: lm-eval reported no '{metric}', which its column is made of")
    return {task: _result(results, task)[key] for task in column.choices}


def _result(results: Mapping[str, Mapping[str, Any]], task: str) -> Mapping[str, Any]:
    name = f"leaderboard_{task}"
    if name not in results:
        raise UserError(f"the results of lm-eval lack the subtask '{name}', which its leaderboard column needs")
    return results[name]


def _chance(choices: int) -> float:
    return 0.0 if choices == GENERATED else 1 / choices
