"""The runs of a task: a line each, and what a training says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparsepo.report.html.gather import TaskResults
from sparsepo.report.run_names import params_text
from sparsepo.runtime.progress import format_duration


@dataclass(frozen=True)
class RunRow:
    """A line of the table; texts as they are printed. `folder` is relative to the page."""

    run: str
    method: str
    label: str
    setting: str
    seed: str
    reward: str
    kl: str
    length: str
    took: str
    memory: str
    folder: str


def run_row(task: TaskResults, run: str, record: Mapping[str, Any]) -> RunRow:
    """Means of the samples, and the cost of the training."""
    score = task.scores[run]
    numbers = {name: fmean(score[name]) if score[name] else None for name in ("reward", "kl_exact", "length")}
    gpus = record.get("peak_gpu_memory_mb") or []
    memory = [f"{record['peak_memory_mb']:,} MB"] if record else []
    return RunRow(
        run=run,
        method=score["method"],
        label=score["label"],
        setting=params_text(score["params"]),
        seed="-" if score["seed"] is None else str(score["seed"]),
        reward=_shown(numbers["reward"], 3),
        kl=_shown(numbers["kl_exact"], 3),
        length=_shown(numbers["length"], 1),
        took=format_duration(record["seconds"]) if record else "-",
        memory=" + ".join([*memory, *(f"{size:,} MB of a GPU" for size in gpus if size)]) or "-",
        folder=f"../{task.name}/{'sft' if run == 'sft' else f'runs/{run}'}/",
    )


def details(task: TaskResults, run: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Title -> what is shown below it: the record of a run part by part, and the end of its log.

    The config of the task is the same for all its runs and stands once in the page.
    """
    parts = {title: record[name] for name, title in _PARTS.items() if name in record}
    rest = {name: value for name, value in record.items() if name not in _PARTS and name != "config"}
    return parts | ({"cost and counts": rest} if rest else {}) | {"end of the log": task.log_tail(run)}


_PARTS = {
    "settings": "settings that reached this run",
    "seeds": "seeds",
    "environment": "versions",
    "hardware": "machine",
    "git": "code",
    "inputs": "inputs, by content",
}


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
