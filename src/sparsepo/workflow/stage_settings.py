"""What in a config can change what each stage makes, and nothing else: plain values, which Snakemake compares."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sparsepo import __version__
from sparsepo.config import Config, TaskConfig
from sparsepo.config.accelerate import read_accelerate
from sparsepo.config.base import MAX_INT
from sparsepo.config.online import judge_of_rounds, reward_of, sampling_of_rounds
from sparsepo.config.runs import find_run, oracle_of, oracle_selected_runs
from sparsepo.config.training import OptimisationConfig
from sparsepo.methods.registry import DEFAULT_INSPECTION_METHOD, METHODS, inspection_method
from sparsepo.runtime.result_cache import file_hash

PUBLISHED = Path(__file__).parents[1] / "report" / "tables" / "published.yaml"
"""Figures of the paper, which a table may show beside ours."""


def _dump(section: Any, without: tuple[str, ...] = ()) -> Any:
    return None if section is None else section.model_dump(mode="json", exclude=set(without))


def _data(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    preferences = _dump(task.preferences) if task.data.source == "preferences" else None
    model = _dump(task.model) if task.data.source == "texts" else None
    execution = _dump(task.execution) if task.data.source == "problems" else None
    made = {"name": config.name, "data": _dump(task.data), "preferences": preferences, "model": model}
    return made | {"execution": execution}


def _fit(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    return {"seed": task.data.seed, "pairs": task.data.source == "preferences"}


def fitted(task: str) -> str:
    """The folder of the scorer that the pipeline fits."""
    return f"results/{task}/scorer"


def _with_folder(section: Any, task: str) -> Any:
    """A dumped section, in which every scorer that the pipeline fits says where it lies."""
    if isinstance(section, dict):
        section = {key: _with_folder(value, task) for key, value in section.items()}
        return section | ({"folder": fitted(task)} if section.get("kind") == "tfidf" else {})
    return section


def _spread(section: OptimisationConfig | None) -> dict[str, Any]:
    """What the accelerate config of a section says, if it has one; its comments are no matter."""
    if section is None or section.accelerate is None:
        return {}
    return {"accelerate": repr(read_accelerate(section.accelerate))}


def _sft(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    return {"model": _dump(task.model), "sft": _dump(task.sft), "loading": trusted(task)} | _spread(task.sft)


def _preferences(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    made = {"preferences": _with_folder(_dump(task.preferences), name), "loading": trusted(task)}
    if task.preferences.source == "executed":
        made |= {"data": _dump(task.data), "execution": _dump(task.execution), "epochs": task.training.num_train_epochs}
    return made


def _reference(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    keys = ("max_prompt_tokens", "max_response_tokens", "precision", "layout", "micro_batch_size", "micro_batch_tokens")
    return {"training": {key: getattr(task.training, key) for key in keys}, "loading": trusted(task)}


def _oracle_pairs(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    ((oracle, section),) = task.oracles.items()
    limits = {key: getattr(task.training, key) for key in ("max_prompt_tokens", "max_response_tokens")}
    return {"task": name, "oracle": oracle, "share": section.share, "seed": section.seed, **limits}


def _score_tokens(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    return _reference(config, task, name, run) | {"loading": loading(task), "oracle": trusted(task)}


def _selection(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    read = {oracle_of(task, path) for path in oracle_selected_runs(task)}
    return {oracle: section.share for oracle, section in task.oracles.items() if oracle in read}


def _method(task: TaskConfig, run: str) -> dict[str, Any]:
    """The method that looks into a run's pairs, as it is: another default is seen by the runs that take it alone."""
    made = None if run == "sft" else find_run(task, run)
    method = inspection_method(made.method) if made else DEFAULT_INSPECTION_METHOD
    row, given = METHODS[method], made.hyper if made else {}
    given = {name: value for name, value in given.items() if name in row.parameters}
    return {"method": method, "hyper": row.resolve(given), "definition": row.definition}


def _train(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    settings = {"seed": find_run(task, run).seed, "training": _dump(task.training, without=("rounds", "on_policy"))}
    settings |= _method(task, run) | {"loading": trusted(task)} | _spread(task.training)
    return settings | _metered(task, name)


def _metered(task: TaskConfig, name: str, always: bool = False) -> dict[str, Any]:
    """What points of the frontier during training depend on, if there are any."""
    if not task.training.frontier_every and not always:
        return {}
    sampling = _dump(task.sampling, without=("samples",))  # one response a prompt while training
    evaluation = {name: getattr(task.evaluation, name) for name in ("frontier_prompts", "batch_size")}
    evaluation |= {"scorer": _with_folder(_dump(task.evaluation.scorer), name)}
    return {"sampling": sampling, "evaluation": evaluation}


def _train_round(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    """A round is measured at its end where something measures, also where no step before is."""
    made = find_run(task, run)
    row, scored = METHODS[made.method], task.evaluation.scorer is not None
    training = _dump(task.training, without=("rounds", "on_policy"))
    training |= {"frontier_every": task.training.frontier_every or MAX_INT} if scored else {}
    settings = {"method": made.method, "seed": made.seed, "training": training}
    settings |= {"hyper": row.resolve(made.hyper), "definition": row.definition}
    settings |= {"loading": trusted(task)} | _spread(task.training)
    return settings | (_metered(task, name, always=True) if scored else {})


def _sample_round(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    """The seed is that of the run; the judge sees texts alone, so nothing of the method is read."""
    sampling = _dump(sampling_of_rounds(task), without=("seed",))
    judge = _with_folder(_dump(judge_of_rounds(task)), name)
    made = {"seed": find_run(task, run).seed, "sampling": sampling, "judge": judge}
    return made | _reference(config, task, name, run)


_OF_PAIRS = (
    *(
        "validate_every",
        "checkpoint_selection",
        "micro_batch_tokens",
        "layout",
        "gradients",
        "log_kl",
        "reference",
        "rounds",
    ),
    *("mask_learning_rate", "mask_weight_decay", "max_response_tokens", "num_processes", "accelerate", "on_policy"),
    "compile",
)
"""Of the training section, what a run on samples of its policy does not look at."""


def _train_on_policy(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    """The number of responses of the final sampling, and its seed, are no matter to this training."""
    made, own = find_run(task, run), task.training.on_policy
    row = METHODS[made.method]
    fits = "target_mean" in row.hyper
    words = own.words if fits else []
    settings = {"method": made.method, "seed": made.seed, "training": _dump(task.training, without=_OF_PAIRS)}
    settings |= {"hyper": row.resolve(made.hyper), "definition": row.definition, "loading": trusted(task)}
    settings |= {"draws": {key: getattr(task.sampling, key) for key in ("max_new_tokens", "batch_size")}}
    settings |= {"on_policy": _dump(own, without=() if fits else ("words", "fit_prompts", "fit_samples"))}
    settings |= {"scorer": None if words else _with_folder(_dump(reward_of(task)), name)}
    return settings | _metered(task, name)


def trusted(task: TaskConfig) -> dict[str, bool]:
    """What every folder made of this task's model is loaded with, if the config allows code of the model's own."""
    return {"trust_remote_code": True} if getattr(task.model, "trust_remote_code", False) else {}


def loading(task: TaskConfig) -> dict[str, Any]:
    """How the reference of this task is loaded."""
    return quantization_kwargs(task) | trusted(task)


def quantization_kwargs(task: TaskConfig) -> dict[str, str]:
    """In 4 bits where the policies' frozen weights are."""
    adapter = task.training.adapter
    if adapter is None or adapter.quantization == "none":
        return {}
    return {"quantization": adapter.quantization, "compute": task.training.precision}


def _splits(task: TaskConfig, part: str) -> list[str]:
    """The splits that this part of the evaluation looks at: validation where a point of the grid is chosen by it."""
    evaluation = task.evaluation
    chosen = evaluation.selected_by != "accuracy" and evaluation.validated[evaluation.selected_by] == part
    return ["validation", "test"] if chosen else ["test"]


def _load(task: TaskConfig, run: str) -> dict[str, Any]:
    """A trained policy of 4 bits has its adapter merged into the values that they stand for."""
    return loading(task) if run == "sft" else trusted(task)


def _sample(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    sampling = _dump(task.sampling)
    made = {"sampling": sampling, "splits": _splits(task, "scores"), "temperatures": [sampling.pop("temperature")]}
    return made | {"loading": _load(task, run), "prompts": None, "single_turn": False}


def _generate(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    sampling = _dump(task.evaluation.generation)
    parts = sorted({*_splits(task, "summaries"), *_splits(task, "wins")}, reverse=True)
    others = {key: sampling.pop(key) for key in ("temperatures", "prompts", "single_turn")}
    return {"sampling": sampling, "splits": parts, "loading": _load(task, run)} | others


def _programs(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    code = _dump(task.evaluation.code, without=("k",))
    return code | {"splits": _splits(task, "code"), "loading": _load(task, run), "data": _dump(task.data)}


def _head(task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    """What names a run in every file of measures."""
    made = None if run == "sft" else find_run(task, run)
    return {
        "task": name,
        "run": run,
        "method": made.method if made else "sft",
        "label": METHODS[made.method].label if made else "SFT",
        "params": dict(made.params) if made else {},
        "seed": made and made.seed,
    }


def _evaluate(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    keys = ("max_prompt_tokens", "max_response_tokens")
    evaluation = task.evaluation
    return _method(task, run) | {
        "head": _head(task, name, run),
        "loading": loading(task),
        "policy": _load(task, run),
        "planted": task.data.source == "planted",
        "training": {key: getattr(task.training, key) for key in keys},
        "evaluation": {key: getattr(evaluation, key) for key in ("token_pairs", "batch_size")},
        "scorer": _with_folder(_dump(evaluation.scorer), name),
        "extra_scorers": {key: _with_folder(_dump(scorer), name) for key, scorer in evaluation.extra_scorers.items()},
    }


def _summaries(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    splits = _splits(task, "summaries")
    return {"head": _head(task, name, run), "summaries": _dump(task.evaluation.summaries), "splits": splits}


def _wins(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    judge = _with_folder(_dump(task.evaluation.win_rate), name)
    return {"head": _head(task, name, run), "judge": judge, "splits": _splits(task, "wins")}


def _benchmarks(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    benchmarks = _dump(task.evaluation.benchmarks)
    return {"head": _head(task, name, run), "benchmarks": benchmarks, "loading": _load(task, run)}


def _code(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    made = {"head": _head(task, name, run), "k": task.evaluation.code.k, "suites": task.evaluation.code.suites}
    return made | {"execution": _dump(task.execution), "data": _dump(task.data)}


def _table(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    settings = _dump(task, without=("resources",))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return {"provenance": f"config {config.name}, task {name} (settings {digest}); sparsepo {__version__}"}


def _compare(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    evaluation = task.evaluation
    keys = ("rows", "baseline", "published")
    asked = {"select": evaluation.selected_by} | {key: getattr(evaluation, key) for key in keys}
    asked |= {"figures": file_hash(PUBLISHED)} if evaluation.published else {}
    return _table(config, task, name, run) | asked


SETTINGS = {
    "data": _data,
    "fit": _fit,
    "sft": _sft,
    "preferences": _preferences,
    "reference": _reference,
    "oracle_pairs": _oracle_pairs,
    "score_tokens": _score_tokens,
    "selection": _selection,
    "train": _train,
    "sample_round": _sample_round,
    "train_round": _train_round,
    "train_on_policy": _train_on_policy,
    "sample": _sample,
    "evaluate": _evaluate,
    "generate": _generate,
    "summaries": _summaries,
    "wins": _wins,
    "benchmarks": _benchmarks,
    "programs": _programs,
    "code": _code,
    "table": _table,
    "compare": _compare,
}
"""Stage -> (config, task, its name, run) -> what this stage reads of the config."""
