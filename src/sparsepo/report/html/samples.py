"""What the browser of samples shows: prompts, and what each run answered, with every score of each answer."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsepo.data.chat import plain_text
from sparsepo.report.html.packing import rounded
from sparsepo.report.html.task_results import TaskResults
from sparsepo.report.tables.metrics import metric_of

MAX_PROMPTS, MIN_PROMPTS = 60, 4  # that a page holds
MAX_LETTERS = 1_200_000  # of all answers of a task: about half a megabyte of the page
MAX_TEXT = 1_500  # letters of a text that are shown
ANSWER_KINDS = {"samples": ["scores"], "generations": ["summaries", "win_rate"], "programs": ["pass_at_k"]}
"""Kind of answers -> the parts of the results that measure them."""
PROMPT_METRICS = ("self_bleu", "edna", "pass@")
"""How the names of metrics begin that have one value per prompt; all others have one per answer."""

SampleRow = Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """Prompts of one kind, `total` how many there are; `columns`: labels of the metrics that some answer has."""

    prompts: list[dict[str, str]]
    total: int
    columns: list[str]
    runs: dict[str, list[list[list[Any]]]]
    """Run -> prompt -> answer -> [text, temperature, numbers in the order of `columns`, None where there is none]."""


def find_answers(task: TaskResults, kind: str) -> Answers | None:
    """What the runs of the first seeds answered to test prompts; None where nothing of this kind was sampled."""
    rows = {run: [row for row in task.rows(kind, run) if row["split"] == "test"] for run in task.first_seeds}
    if not rows["sft"]:
        return None
    all_prompts = list(dict.fromkeys(row["prompt"] for row in rows["sft"]))
    letters = sum(min(len(row["text"]), MAX_TEXT) for of_run in rows.values() for row in of_run)
    count = min(MAX_PROMPTS, max(MIN_PROMPTS, MAX_LETTERS * len(all_prompts) // max(letters, 1)))
    shown = all_prompts[:count]
    references = {row["prompt"]: row.get("reference", "") for row in task.rows("prompts", "test")}
    chats = {row["prompt"]: plain_text(row.get("messages") or row["prompt"]) for row in rows["sft"]}
    prompts = [{"prompt": _cut(chats[prompt]), "reference": _cut(references.get(prompt, ""))} for prompt in shown]
    scores = {run: _answer_scores(task, kind, run, rows[run]) for run in rows}
    names = list(dict.fromkeys(name for of_run in scores.values() for score in of_run for name in score))
    runs = {run: _by_prompt(rows[run], scores[run], shown, names) for run in rows}
    return Answers(prompts, len(all_prompts), [metric_of(name).label for name in names], runs)


def _answer_scores(task: TaskResults, kind: str, run: str, rows: Sequence[SampleRow]) -> list[dict[str, float]]:
    """Metric -> number, in printed units, of each answer.

    A metric with one value per prompt (pass@k, self-BLEU) is that of all its answers; where some answers have no value
    (no verdict of a judge), nobody can tell which, and none of that prompt gets one.
    """
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(row["prompt"] for row in rows))}
    groups = [{row["id"] or row["prompt"], row["prompt"], places[row["prompt"]]} for row in rows]
    scores: list[dict[str, float]] = [{} for _ in rows]
    files = [file for part in ANSWER_KINDS[kind] if (file := task.measured(part, run))]
    for variant, metrics in [item for file in files for item in file["splits"]["test"].items()]:
        members: dict[Hashable, list[int]] = {}
        for at, row in enumerate(rows):
            of_variant = {"samples": variant == "", "generations": variant == f"{row['temperature']:g}"}
            if of_variant.get(kind, True):  # the suite of a program follows from its problem
                for group in groups[at]:
                    members.setdefault(group, []).append(at)
        for name, numbers in metrics.items():
            per_prompt = name.startswith(PROMPT_METRICS)
            for group, values in _values_by_group(numbers).items():
                answers = members.get(group, [])
                if len(values) == (1 if per_prompt else len(answers)):
                    for place, at in enumerate(answers):
                        scores[at][name] = values[0 if per_prompt else place] * metric_of(name).scale
    return scores


def _values_by_group(numbers: Mapping[str, Sequence]) -> dict[Hashable, list[float]]:
    values: dict[Hashable, list[float]] = {}
    if len(set(numbers["groups"])) > 1:  # else it is one number of the whole run
        for value, group in zip(numbers["values"], numbers["groups"], strict=True):
            values.setdefault(group, []).append(value)
    return values


def _by_prompt(
    rows: Sequence[SampleRow], scores: Sequence[Mapping], shown: Sequence[str], names: Sequence[str]
) -> list:
    answers: dict[str, list] = {prompt: [] for prompt in shown}
    for row, score in zip(rows, scores, strict=True):
        if row["prompt"] in answers:
            numbers = [rounded(score[name]) if name in score else None for name in names]
            answers[row["prompt"]].append([_cut(row["text"]), row["temperature"], numbers])
    return list(answers.values())


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
