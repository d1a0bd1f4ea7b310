"""Loads the tasks of lm-eval that a config asks for; an error says what a task lacks and how to get it."""

import errno
import importlib.metadata
import random
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sparsepo.config.evaluation import BenchmarkConfig
from sparsepo.evaluation.lm_eval.packaged_questions import packaged_task
from sparsepo.runtime.errors import UserError

SEED = 0  # of the questions that `limit` chooses, and of the order of choices in GPQA
ANTLR = "4.11"


def load_tasks(section: BenchmarkConfig, work: Path) -> dict[str, dict[str, Any]]:
    """For each task that is asked for, by its name in lm-eval: its "tasks" and "groups", with their data."""
    try:
        import lm_eval.tasks
        from datasets import enable_caching

        _check_software(section.tasks)
    except ImportError as error:
        raise UserError(
            f"benchmarks need a package that is not installed ({error}); pip install 'sparsepo[eval]'"
        ) from None
    enable_caching()  # GPQA shuffles its choices each time it is read, unless they are cached
    board = Path(lm_eval.tasks.__file__).parent / "leaderboard"
    all_tasks = not all(name.startswith("leaderboard") for name in section.tasks)  # scanning them takes seconds
    manager = lm_eval.tasks.TaskManager(include_path=None if all_tasks else board, include_defaults=all_tasks)
    for name in section.tasks:
        if name not in manager.task_index:
            (close,) = get_close_matches(name, manager.all_tasks, n=1, cutoff=0)
            raise UserError(f"benchmarks.tasks: lm-eval has no task '{name}'; the nearest name is '{close}'")
    loaded = {name: _load(manager, name) for name in section.tasks}
    for place in section.local:
        task = _load(manager, str(place.path or packaged_task(place.package, place.kind, work)))
        (name,) = task["tasks"]
        loaded[name] = task
    return loaded


def _load(manager: Any, name: str) -> dict[str, Any]:
    """One task or group with its data. Raises UserError for what cannot be loaded, with what to do."""
    from datasets.exceptions import DatasetsError
    from yaml import YAMLError

    random.seed(SEED)
    try:
        loaded = manager.load([name])
    except (OSError, ImportError, DatasetsError, YAMLError, ValueError, TypeError, KeyError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"lm-eval cannot load the task '{name}' ({reason}); {_remedy(error)}") from None
    unsafe = [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        raise UserError(f"'{unsafe[0]}' runs what the model writes, without a sandbox; use the section 'code' instead")
    return loaded


def _remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "pip install 'sparsepo[eval]' brings what the tasks need"
    if "gated" in str(error):
        return "accept the terms of the data set on the hub and set HF_TOKEN to a token of that account"
    if "Offline" in str(error):
        return "unset HF_HUB_OFFLINE once, on a machine with network, so that the data is cached"
    if isinstance(error, OSError):
        return "the first run needs the network, and data of restricted access needs HF_TOKEN"
    return "a file holds one task, as lm-eval's guide to new tasks describes it"


def _check_software(names: list[str]) -> None:
    """Raises UserError for what lm-eval would miss only at the end: it would score answers wrongly, or stop there."""
    if any(name == "leaderboard" or name.startswith("leaderboard_math") for name in names):
        antlr = importlib.metadata.version("antlr4-python3-runtime")
        if not antlr.startswith(f"{ANTLR}."):
            raise UserError(
                f"MATH needs antlr4-python3-runtime {ANTLR}, not {antlr}, with which answers would count as wrong; "
                f"pip install antlr4-python3-runtime=={ANTLR}"
            )
    if any(name == "leaderboard" or "ifeval" in name or "instruction_following" in name for name in names):
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            raise UserError(
                "IFEval needs NLTK's sentence model punkt_tab, which is not installed; run python -m nltk.downloader "
                "punkt_tab, or set NLTK_DATA to a folder that has it (the wheel llama-index-core carries one)"
            ) from None


def set_examples(tasks: dict[str, Any], num_fewshot: int | None) -> None:
    """Set the number of examples in a prompt: `num_fewshot`, or the number that the task fixes."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        fixed = num_fewshot is None or own == 0 or name.startswith("leaderboard")
        task.set_config("num_fewshot", own or 0 if fixed else num_fewshot)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)


def check_answer_lengths(tasks: dict[str, Any], length: int) -> None:
    """Raises UserError for a task whose answers may be as long as the model's context of `length` tokens."""
    for name, task in tasks.items():
        answer = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", 0)
        if answer >= length:
            raise UserError(f"'{name}' asks for answers of up to {answer:,} tokens; the model's context is {length:,}")


def draw_questions(tasks: dict[str, Any], limit: int | None) -> dict[str, list[int]] | None:
    """Indices of `limit` questions of each task, drawn by its name: the head of a file is often one topic."""
    if limit is None:
        return None
    indices = {}
    for name, task in tasks.items():
        size = len(task.eval_docs)
        indices[name] = sorted(random.Random(f"{SEED} {name}").sample(range(size), min(limit, size)))
    return indices
