"""What the browser of samples shows: prompts, and what each run answered, with every score of each answer."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsepo.report.html.gather import TaskResults
from sparsepo.report.html.pack import rounded
from sparsepo.report.tables.metrics import metric_of

MOST, FEWEST = 60, 4
"""Prompts that a page holds."""
LETTERS = 1_200_000
"""Of all answers of a task; about half a megabyte of the page."""
LONGEST = 1_500
"""Letters of a text that are shown."""
KINDS = {"samples": ["scores"], "generations": ["summaries", "wins"], "programs": ["code"]}
"""What was sampled -> the parts that measured it."""
OF_PROMPTS = ("self_bleu", "edna", "pass@")
"""How the names of metrics begin that have one value a prompt; all others have one an answer."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """Prompts of one kind, `whole` how many there were; `columns`: the metrics that some answer has, as labels."""

    kind: str
    prompts: list[dict[str, str]]
    whole: int
    columns: list[str]
    runs: dict[str, list[list[list[Any]]]]
    """Run -> prompt -> answer -> [text, temperature, numbers in the order of `columns`, null where there is none]."""


def answers_of(task: TaskResults, kind: str) -> Answers | None:
    """What the runs of the first seeds answered to test prompts; None where nothing of this kind was sampled."""
    rows = {run: _tested(task.rows(kind, run)) for run in task.first_seeds}
    if not rows["sft"]:
        return None
    of_sft = _by_prompt(rows["sft"])
    letters = sum(min(len(row["text"]), LONGEST) for found in rows.values() for row in found)
    count = min(MOST, max(FEWEST, LETTERS * len(of_sft) // max(letters, 1)))
    shown = list(of_sft)[:count]
    references = {row["prompt"]: row.get("reference", "") for row in task.rows("prompts", "test")}
    prompts = [{"prompt": _cut(prompt), "reference": _cut(references.get(prompt, ""))} for prompt in shown]
    found = {run: _scored(task, kind, run, rows[run]) for run in rows}
    names = list(dict.fromkeys(name for scores in found.values() for score in scores for name in score))
    runs = {run: _answers(rows[run], found[run], shown, names) for run in rows}
    return Answers(kind, prompts, len(of_sft), [metric_of(name).label for name in names], runs)


def _tested(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["split"] == "test"]


def _by_prompt(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["prompt"], []).append(row)
    return found


def _scored(task: TaskResults, kind: str, run: str, rows: Sequence[Row]) -> list[dict[str, float]]:
    """Metric -> number, in printed units, of each answer.

    A metric with one value a prompt (pass@k, self-BLEU) is that of all answers to it; where some answers have no value
    (no verdict of a judge), nobody can tell which, and none of that prompt gets one.
    """
    places = {prompt: place for place, prompt in enumerate(_by_prompt(rows))}
    keyed = [(_variants(kind, row), {row["id"] or row["prompt"], row["prompt"], places[row["prompt"]]}) for row in rows]
    made: list[dict[str, float]] = [{} for _ in rows]
    files = [file for part in KINDS[kind] if (file := task.measured(part, run))]
    for variant, metrics in [item for file in files for item in file["splits"]["test"].items()]:
        members: dict[Hashable, list[int]] = {}
        for at, (variants, keys) in enumerate(keyed):
            if variants is None or variant in variants:
                for key in keys:
                    members.setdefault(key, []).append(at)
        for name, numbers in metrics.items():
            for key, values in _grouped(numbers).items():
                answers = members.get(key, [])
                whole = name.startswith(OF_PROMPTS)
                if len(values) == (1 if whole else len(answers)):
                    for place, at in enumerate(answers):
                        made[at][name] = values[0 if whole else place] * metric_of(name).scale
    return made


def _variants(kind: str, row: Row) -> tuple[str, ...] | None:
    """Under which name its measures stand; None: under any, as the suite of a program is told by its problem."""
    return {"samples": ("",), "generations": (f"{row['temperature']:g}",), "programs": None}[kind]


def _grouped(numbers: Mapping[str, Sequence]) -> dict[Hashable, list[float]]:
    found: dict[Hashable, list[float]] = {}
    if len(set(numbers["groups"])) > 1:  # else it is one number of the whole run
        for value, group in zip(numbers["values"], numbers["groups"], strict=True):
            found.setdefault(group, []).append(value)
    return found


def _answers(rows: Sequence[Row], scores: Sequence[Mapping], shown: Sequence[str], names: Sequence[str]) -> list:
    made: dict[str, list] = {prompt: [] for prompt in shown}
    for row, score in zip(rows, scores, strict=True):
        if row["prompt"] in made:
            numbers = [rounded(score[name]) if name in score else None for name in names]
            made[row["prompt"]].append([_cut(row["text"]), row["temperature"], numbers])
    return list(made.values())


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
