"""Runs tasks of lm-eval on a model in memory: by name, from a task file, or from questions of an installed package."""

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

from jinja2.exceptions import TemplateError

from sparsepo.config.evaluation import METRIC_NAMES, BenchmarkConfig
from sparsepo.config.models import ChatOptions
from sparsepo.evaluation.lm_eval import leaderboard
from sparsepo.evaluation.lm_eval.tasks import SEED, check_answer_lengths, draw_questions, load_tasks, set_examples
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, get_or_compute

BLOCK_BATCHES = 16  # batches given to lm-eval at once: within, it sorts by length and computes a shared prompt once
BOOTSTRAP = 100  # resamples, for the few metrics without a standard error in closed form


def run_tasks(
    model: Any,
    tokenizer: Any,
    section: BenchmarkConfig,
    work: Path,
    cache: ResultCache | None = None,
    chat: ChatOptions | None = None,
) -> dict[str, Any]:
    """The scores of `model` on the tasks of a config's section `benchmarks`.

    `work` is a folder for the files of packaged questions. Returns {"results": lm-eval's numbers by task,
    "measurements": the columns of the leaderboard and their "avg", and one for each other task asked for, "notes"}.
    `limit` chooses so many questions of each task, the same for every model. `num_fewshot` does not change the tasks of
    the leaderboard. Answers are cached block by block. chat: of a policy trained on rendered chats; it is asked
    in its chat template, examples as earlier turns, with the system message of these options. Raises UserError for an
    unknown task, for packages, data or access that a task lacks, and for questions that the chat template refuses.
    """
    with _quiet() as messages:
        loaded = load_tasks(section, work)
        tasks = {name: task for part in loaded.values() for name, task in part["tasks"].items()}
        groups = {name: group for part in loaded.values() for name, group in part["groups"].items()}
        import torch
        from lm_eval.evaluator import evaluate

        set_examples(tasks, section.num_fewshot)
        lm = _language_model(model, tokenizer, section.batch_size, cache, chat)
        check_answer_lengths(tasks, lm.max_length)
        questions = draw_questions(tasks, section.limit)
        torch.manual_seed(SEED)
        asked = {"samples": questions, "bootstrap_iters": BOOTSTRAP}
        if chat is not None:
            system = {"system_instruction": chat.system_message}
            asked |= system | {"apply_chat_template": True, "fewshot_as_multiturn": True}
        try:
            output = evaluate(lm, {"tasks": tasks, "groups": groups}, **asked)
        except TemplateError as error:
            raise UserError(f"the policy's chat template does not take a question of lm-eval: {error}") from None
    return {
        "results": json.loads(json.dumps(output["results"], default=float)),
        "measurements": _measurements(output, {name: list(part["tasks"]) for name, part in loaded.items()}),
        "notes": _notes(section.limit, messages, lm.max_length, chat),
    }


def _notes(limit: int | None, messages: list[str], length: int, chat: ChatOptions | None) -> list[str]:
    notes = [f"lm-eval {importlib.metadata.version('lm-eval')}"]
    if limit:
        notes.append(f"at most {limit:,} questions of each task, drawn with seed {SEED}")
    if chat is not None:
        system = ", with the system message of the config" if chat.system_message else ""
        notes.append(f"questions are asked in the policy's chat template{system}")
    unread = sum("removing the system role" in message for message in messages)
    if unread:
        notes.append(f"the chat template takes no system message: {unread:,} were left out")
    cut = sum("truncating" in message.lower() for message in messages)
    if cut:
        notes.append(f"prompts longer than the model's {length:,} tokens lost their beginning, {cut:,} times")
    return notes


# --- model


def _language_model(
    model: Any, tokenizer: Any, batch_size: int, cache: ResultCache | None, chat: ChatOptions | None
) -> Any:
    """lm-eval's wrapper of a model in memory, with our progress lines and cache."""
    from lm_eval.models.huggingface import HFLM

    size = BLOCK_BATCHES * batch_size

    class Model(HFLM):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            pairs = _run_in_blocks(super().loglikelihood, requests, size, "prompts of lm-eval", cache)
            return [tuple(pair) for pair in pairs]  # JSON has no tuples

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            return _run_in_blocks(super().generate_until, requests, size, "answers for lm-eval", cache)

    options = {"batch_size": batch_size, "softmax_dtype": "float32"}  # bfloat16 loses differences between choices
    if chat is not None:  # what the chat template makes has its BOS
        options |= {"add_bos_token": False, "chat_template_args": chat.chat_template_kwargs}
    return Model(pretrained=model, tokenizer=tokenizer, **options)


def _run_in_blocks(
    method: Callable[..., list[Any]], requests: list[Any], size: int, what: str, cache: ResultCache | None
) -> list[Any]:
    """`method` on blocks of requests, long prompts first and equal ones together; answers in the order of requests."""
    order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].args[0]), requests[index].args[0]))
    answers: dict[int, Any] = {}
    block: list[int] = []
    for done, index in enumerate(progress(order, len(order), what), start=1):
        block.append(index)
        if len(block) == size or done == len(order):
            part = [requests[position] for position in block]
            key = [what, [request.args for request in part]]
            values = get_or_compute(cache, key, partial(method, part, disable_tqdm=True))
            answers |= zip(block, values, strict=True)
            block = []
    return [answers[index] for index in range(len(requests))]


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """The log of lm-eval is not printed; its warnings are collected."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("lm_eval")
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
            yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


# --- numbers


def _measurements(output: dict[str, Any], asked: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    results, measurements = output["results"], {}
    for label, tasks in asked.items():
        board = [name for name, column in leaderboard.LEADERBOARD.items() if label in ("leaderboard", column.group)]
        if board:
            values, errors = leaderboard.columns(results, board), leaderboard.standard_errors(results, board)
            measurements |= {name: _single(values[name], errors[name]) for name in board}
            if label == "leaderboard":
                measurements["avg"] = _single(leaderboard.average(values), None)
        else:
            measurements |= _question_values(output, label, tasks)
    return {f"lm_eval_{name}" if _is_taken(name, own) else name: own for name, own in measurements.items()}


def _is_taken(name: str, measurement: dict[str, Any]) -> bool:
    """Whether a task of lm-eval is called like a metric of ours, of which it is none."""
    return "metric" in measurement and name in METRIC_NAMES


def _question_values(output: dict[str, Any], label: str, tasks: list[str]) -> dict[str, dict[str, Any]]:
    """One value of each question where their mean is what lm-eval reports, so that models are compared by question.

    Of several metrics the one normalised by length is taken, else the first. A name of several tasks without a number
    of its own (a tag) gives one measurement for each task. `metric` and `higher_is_better` are what lm-eval says.
    """
    first = output["samples"][tasks[0]][0]
    metric = "acc_norm" if "acc_norm" in first["metrics"] else first["metrics"][0]
    key = f"{metric},{first['filter']}"
    if key not in output["results"].get(label, {}):
        return {name: value for task in tasks for name, value in _question_values(output, task, [task]).items()}
    rows = [(task, row) for task in tasks for row in output["samples"][task] if row["filter"] == first["filter"]]
    reported = output["results"][label][key]
    named = {"metric": metric, "higher_is_better": output["higher_is_better"].get(label, {}).get(metric)}
    if all(isinstance(row[metric], int | float) for _, row in rows):
        values = [float(row[metric]) for _, row in rows]
        if math.isclose(sum(values) / len(values), reported, abs_tol=1e-9):
            return {label: {"values": values, "groups": [f"{task}/{row['doc_id']}" for task, row in rows]} | named}
    error = output["results"][label].get(f"{metric}_stderr,{first['filter']}")
    return {label: _single(reported, None if isinstance(error, str) else error) | named}


def _single(value: float, error: float | None) -> dict[str, Any]:
    return {"values": [float(value)], "groups": [0], "stderr": error}
