"""Tasks of lm-eval on a model in memory: by name, from a task file, or from questions inside an installed package."""

import importlib.metadata
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sparsepo.evaluation.lm_eval import leaderboard
from sparsepo.evaluation.lm_eval.tasks import SEED, check_room, draw_questions, load_tasks, set_examples
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, get_or_compute

BLOCK = 16  # batches handed to lm-eval at once: inside, it sorts by length and computes a shared prompt once
BOOTSTRAP = 100  # resamples, for the few metrics without a standard error in closed form


def run_tasks(
    model: Any, tokenizer: Any, spec: dict[str, Any], work: Path, kept: ResultCache | None = None
) -> dict[str, Any]:
    """What `model` scores on the tasks of a config's `benchmarks` section.

    spec: {"tasks": names, "local": [{"path"} or {"package", "kind"}], "limit", "num_fewshot", "batch_size"}. `work` is
    a folder for the files of packaged questions. Returns {"results": lm-eval's numbers by task, "measurements": the
    columns of the leaderboard and their "avg", and one for each other task asked for, "notes": sentences}.
    `limit` keeps so many questions of each task, the same for every model. `num_fewshot` leaves the leaderboard's tasks
    alone. Answers are `kept` block by block. Raises UserError for an unknown task and for what a task cannot be run
    without: packages, data, access.
    """
    with _quiet() as warned:
        loaded = load_tasks(spec, work)
        tasks = {name: task for each in loaded.values() for name, task in each["tasks"].items()}
        groups = {name: group for each in loaded.values() for name, group in each["groups"].items()}
        set_examples(tasks, spec["num_fewshot"])
        lm = _language_model(model, tokenizer, spec["batch_size"], kept)
        check_room(tasks, lm.max_length)
        found = _evaluate(lm, tasks, groups, draw_questions(tasks, spec["limit"]))
    return {
        "results": json.loads(json.dumps(found["results"], default=float)),
        "measurements": _measurements(found, {name: list(each["tasks"]) for name, each in loaded.items()}),
        "notes": _notes(spec["limit"], warned, lm.max_length),
    }


def _evaluate(lm: Any, tasks: dict[str, Any], groups: dict[str, Any], kept: dict[str, list[int]] | None) -> Any:
    import torch
    from lm_eval.evaluator import evaluate

    torch.manual_seed(SEED)
    return evaluate(lm, {"tasks": tasks, "groups": groups}, samples=kept, bootstrap_iters=BOOTSTRAP)


def _notes(limit: int | None, warned: list[str], length: int) -> list[str]:
    notes = [f"lm-eval {importlib.metadata.version('lm-eval')}"]
    if limit:
        notes.append(f"at most {limit:,} questions of each task, drawn with seed {SEED}")
    cut = sum("truncating" in message.lower() for message in warned)
    if cut:
        notes.append(f"prompts longer than the model's {length:,} tokens lost their beginning, {cut:,} times")
    return notes


# --- model


def _language_model(model: Any, tokenizer: Any, batch_size: int, kept: ResultCache | None) -> Any:
    """lm-eval's wrapper of a model in memory, with our progress in place of its own."""
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            found = _in_blocks(super().loglikelihood, requests, BLOCK * batch_size, "prompts of lm-eval", kept)
            return [tuple(each) for each in found]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            return _in_blocks(super().generate_until, requests, BLOCK * batch_size, "answers for lm-eval", kept)

    # the differences between choices are lost in bfloat16
    return Model(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")


def _in_blocks(
    method: Callable[..., list[Any]], requests: list[Any], size: int, what: str, kept: ResultCache | None
) -> list[Any]:
    """`method` on blocks of requests, long prompts first and equal ones together; the answers in the first order."""
    order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].args[0]), requests[index].args[0]))
    answers: dict[int, Any] = {}
    block: list[int] = []
    for done, index in enumerate(progress(order, len(order), what), start=1):
        block.append(index)
        if len(block) == size or done == len(order):
            asked = [requests[at] for at in block]
            found = get_or_compute(
                kept, [what, [each.args for each in asked]], partial(method, asked, disable_tqdm=True)
            )
            answers |= dict(zip(block, found, strict=True))
            block = []
    return [answers[index] for index in range(len(requests))]


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """lm-eval's log stays off the output; its warnings are collected."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("lm_eval")
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
            yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


# --- numbers


def _measurements(found: dict[str, Any], asked: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    results, measured = found["results"], {}
    for label, tasks in asked.items():
        board = [name for name, column in leaderboard.COLUMNS.items() if label in ("leaderboard", column.group)]
        if board:
            values, errors = leaderboard.columns(results, board), leaderboard.standard_errors(results, board)
            measured |= {name: _number(values[name], errors[name]) for name in board}
            if label == "leaderboard":
                measured["avg"] = _number(leaderboard.average(values), None)
        else:
            measured |= _of_questions(found, label, tasks)
    return measured


def _of_questions(found: dict[str, Any], label: str, tasks: list[str]) -> dict[str, dict[str, Any]]:
    """One value a question where their mean is what lm-eval reports, so that models are compared on the same ones.

    Of several metrics the one normalised by length, else the first. A name that stands for several tasks without a
    number of its own (a tag) gives one measurement for each.
    """
    first = found["samples"][tasks[0]][0]
    metric = "acc_norm" if "acc_norm" in first["metrics"] else first["metrics"][0]
    key = f"{metric},{first['filter']}"
    if key not in found["results"].get(label, {}):
        return {name: value for task in tasks for name, value in _of_questions(found, task, [task]).items()}
    rows = [(task, row) for task in tasks for row in found["samples"][task] if row["filter"] == first["filter"]]
    reported = found["results"][label][key]
    if all(isinstance(row[metric], int | float) for _, row in rows):
        values = [float(row[metric]) for _, row in rows]
        if math.isclose(sum(values) / len(values), reported, abs_tol=1e-9):
            return {label: {"values": values, "groups": [f"{task}/{row['doc_id']}" for task, row in rows]}}
    error = found["results"][label].get(f"{metric}_stderr,{first['filter']}")
    return {label: _number(reported, None if isinstance(error, str) else error)}


def _number(value: float, error: float | None) -> dict[str, Any]:
    return {"values": [float(value)], "groups": [0], "stderr": error}
