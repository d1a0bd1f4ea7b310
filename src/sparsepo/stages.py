"""What the workflow asks of a config: tasks, runs, and what each stage reads, as text that can be compared."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo import __version__
from sparsepo.config import Config, TaskConfig
from sparsepo.configfile import load_config
from sparsepo.data.hashes import file_hash
from sparsepo.errors import UserError
from sparsepo.objective.methods import METHODS
from sparsepo.runs import find_run, runs_of


@dataclass(frozen=True)
class Stages:
    """A checked config, seen from the rules."""

    config: Config

    @classmethod
    def read(cls, paths: Sequence[str | Path], overrides: Mapping[str, Any]) -> "Stages":
        """Load and check; also refuse results of another config in the working directory."""
        config = load_config(paths, overrides)
        for task in config.tasks:
            check_owner(Path("results") / task / "data.json", config.name)
        return cls(config)

    @property
    def tasks(self) -> list[str]:
        return list(self.config.tasks)

    def runs(self, task: str, sft: bool = True) -> list[str]:
        """Paths of the runs of a task; `sft` is the reference itself."""
        return ["sft"] * sft + [run.path for run in runs_of(self.config.tasks[task])]

    def first_run(self, task: str, method: str, **_: Any) -> str:
        """The first point and seed of a method."""
        return next(run.path for run in runs_of(self.config.tasks[task]) if run.method == method)

    def cached(self, task: str, run: str) -> tuple[str, ...]:
        """What this run reads of the reference instead of running it."""
        section = self.config.tasks[task]
        made = find_run(section, run)
        needs = METHODS[made.method].of_the_reference(made.hyper, section.training.log_kl)
        cacheable = section.training.reference == "cached" and not _loading(section)
        return needs or () if cacheable else ()

    @property
    def run_patterns(self) -> list[str]:
        """Regular expressions that match every run of every task."""
        return sorted({re.escape(run) for task in self.tasks for run in self.runs(task)})

    def resources(self, task: str) -> dict[str, int]:
        return self.config.tasks[task].resources.model_dump()

    def input_hashes(self, task: str) -> str:
        """Content of the user's own files, which Snakemake compares like any other setting."""
        section = self.config.tasks[task]
        paths = [getattr(part, "path", None) for part in (section.data, section.preferences)]
        return " ".join(file_hash(path) for path in paths if path is not None)

    def model_files(self, task: str) -> list[str]:
        """The files of a model folder that the user names, which are inputs like any other."""
        model = self.config.tasks[task].model
        return sorted(map(str, model.path.glob("*.*"))) if model.source == "folder" else []

    def settings(self, stage: str, task: str, run: str = "sft", **_: Any) -> str:
        """JSON of everything in the config that can change what `stage` makes, and nothing else."""
        section = self.config.tasks[task]
        return json.dumps(_STAGES[stage](self.config, section, task, run), sort_keys=True)


def check_owner(stamp: Path, name: str) -> None:
    """Raises UserError when the results of a task were made by a config of another name."""
    if not stamp.is_file():
        return
    try:
        owner = json.loads(stamp.read_text())["config"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{stamp}: not a stamp of sparsepo; is {stamp.parent} a results folder?") from None
    if owner != name:
        raise UserError(
            f"{stamp.parent} holds results of the config named '{owner}', and this one is named '{name}': work in "
            "another folder (snakemake --directory), rename the task, or remove that folder"
        )


def _dump(section: Any, without: tuple[str, ...] = ()) -> Any:
    return None if section is None else section.model_dump(mode="json", exclude=set(without))


def _data(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    preferences = _dump(task.preferences) if task.data.source == "preferences" else None
    model = _dump(task.model) if task.data.source == "texts" else None
    return {"name": config.name, "data": _dump(task.data), "preferences": preferences, "model": model}


def _sft(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    return {"model": _dump(task.model), "sft": _dump(task.sft)}


def _preferences(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    return {"preferences": _dump(task.preferences)}


def _reference(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    keys = ("max_prompt_tokens", "max_response_tokens", "precision", "layout", "micro_batch_size", "micro_batch_tokens")
    return {"training": {key: getattr(task.training, key) for key in keys}}


def _train(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    made = find_run(task, run)
    settings = {"method": made.method, "hyper": made.hyper, "seed": made.seed, "training": _dump(task.training)}
    measured = task.training.frontier_every
    sampling = _dump(task.sampling, without=("samples",))  # one response a prompt while training
    evaluation = _dump(task.evaluation, without=("token_pairs",))
    return settings | ({"sampling": sampling, "evaluation": evaluation} if measured else {})


def _loading(task: TaskConfig) -> dict[str, str]:
    """How the reference of this task is loaded: in 4 bits where the policies' frozen weights are."""
    adapter = task.training.adapter
    if adapter is None or adapter.quantise == "none":
        return {}
    return {"quantise": adapter.quantise, "compute": task.training.precision}


def _sample(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    return {"sampling": _dump(task.sampling), "loading": _loading(task) if run == "sft" else {}}


def _evaluate(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    made = None if run == "sft" else find_run(task, run)
    keys = ("max_prompt_tokens", "max_response_tokens")
    return {
        "task": name,
        "loading": _loading(task),
        "run": run,
        "method": made and made.method,
        "hyper": made.hyper if made else {},
        "params": dict(made.params) if made else {},
        "seed": made and made.seed,
        "planted": task.data.source == "planted",
        "training": {key: getattr(task.training, key) for key in keys},
        "evaluation": _dump(task.evaluation, without=("frontier_prompts",)),
    }


def _table(config: Config, task: TaskConfig, name: str, run: str) -> dict[str, Any]:
    settings = _dump(task, without=("resources",))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return {"provenance": f"config {config.name}, task {name} (settings {digest}); sparsepo {__version__}"}


_STAGES = {
    "data": _data,
    "sft": _sft,
    "preferences": _preferences,
    "reference": _reference,
    "train": _train,
    "sample": _sample,
    "evaluate": _evaluate,
    "table": _table,
}
