"""The runs of a task: a row each, and the record of a training in parts."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from sparsepo.report.html.task_results import TaskResults
from sparsepo.report.run_names import params_text
from sparsepo.report.tables.render import format_number
from sparsepo.runtime.progress import format_duration

_PARTS = {
    "settings": "settings that reached this run",
    "seeds": "seeds",
    "environment": "versions",
    "hardware": "machine",
    "git": "code",
    "inputs": "inputs, by content",
}


def run_row(task: TaskResults, run: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Means of the samples, and the cost of the training, as printed. `folder` is relative to the page."""
    score = task.scores[run]
    reward, kl, length = (fmean(score[name]) if score[name] else None for name in ("reward", "kl_exact", "length"))
    memory = [f"{record['peak_memory_mb']:,} MB"] if record else []
    memory += [f"{size:,} MB of a GPU" for size in record.get("peak_gpu_memory_mb") or [] if size]
    return {
        "run": run,
        "label": score["label"],
        "setting": params_text(score["params"]),
        "seed": "-" if score["seed"] is None else str(score["seed"]),
        "reward": format_number(reward, 3),
        "kl": format_number(kl, 3),
        "length": format_number(length, 1),
        "time": format_duration(record["seconds"]) if record else "-",
        "memory": " + ".join(memory) or "-",
        "folder": f"../{task.name}/{'sft' if run == 'sft' else f'runs/{run}'}/",
    }


def run_details(task: TaskResults, run: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Title -> what is shown below it: the record of a run part by part, and the end of its log.

    The config of the task is the same for all its runs and is in the page once.
    """
    parts = {title: record[name] for name, title in _PARTS.items() if name in record}
    rest = {name: value for name, value in record.items() if name not in _PARTS and name != "config"}
    return parts | ({"cost and counts": rest} if rest else {}) | {"end of the log": task.log_tail(run)}
