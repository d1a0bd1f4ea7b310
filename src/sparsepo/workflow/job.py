"""A job of the workflow, and what of the config its settings are taken from."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from sparsepo import __version__
from sparsepo.config import Config, TaskConfig
from sparsepo.config.runs import Run, find_run, oracle_of, runs_of
from sparsepo.methods.registry import METHODS

Loading = dict[str, bool | str]
"""Keyword arguments of `load_model`."""
Splits = list[Literal["validation", "test"]]


@dataclass(frozen=True)
class Job:
    """`section`: the config of its task, or of its oracle (see `as_task`). `run_path`: its run, or `sft`.

    `owners`: task -> name of the config that it belongs to, where several configs are given.
    """

    config: Config
    task: str
    section: TaskConfig
    run_path: str = "sft"
    owners: Mapping[str, str] | None = None

    def value(self, name: str) -> Any:
        """What settings mean by a name: a key of the task or of its evaluation, or else a property of the job."""
        for section in (self.section, self.section.evaluation):
            if name in type(section).model_fields or hasattr(type(section), name):
                return getattr(section, name)
        return getattr(self, name)

    @property
    def config_name(self) -> str:
        return (self.owners or {}).get(self.task, self.config.name)

    @cached_property
    def run(self) -> Run | None:
        """The run of this job; None for the SFT model."""
        return None if self.run_path == "sft" else find_run(self.section, self.run_path)

    @property
    def seed(self) -> int | None:
        return self.run.seed if self.run else None

    @property
    def header(self) -> dict[str, Any]:
        """What names a run in every file of measures; `params` are the values of its grid as text."""
        run = self.run
        method, label, params = (run.method, METHODS[run.method].label, dict(run.params)) if run else ("sft", "SFT", {})
        named = {"label": label, "method": method, "params": params, "run": self.run_path}
        return named | {"seed": self.seed, "task": self.task}

    @property
    def opponents(self) -> dict[str, str]:
        """Opponent of the win rates -> its run: of a method the first point of its grid, with the seed of this run.

        Ordered by name, as in the JSON of settings.

        A run is not compared with itself, and `chosen` has no run.
        """
        seed = self.section.seeds[0] if self.seed is None else self.seed
        runs = {"sft": "sft"}
        for method, (grid, *_) in self.section.methods.items():
            runs[method] = Run(method, tuple((name, values[0]) for name, values in grid.items()), seed).path
        wanted = [name for name in self.section.evaluation.win_rate_against if name != "chosen"]
        return {name: runs[name] for name in sorted(wanted) if runs[name] != self.run_path}

    @property
    def trusted_loading(self) -> Loading:
        """How every model folder made of the task's model is loaded: with its own code, if the config allows that."""
        return {"trust_remote_code": True} if getattr(self.section.model, "trust_remote_code", False) else {}

    @property
    def reference_loading(self) -> Loading:
        """How the reference is loaded: in 4 bits where the frozen weights of the policies are."""
        return quantized_loading(self.section) | self.trusted_loading

    @property
    def policy_loading(self) -> Loading:
        """A trained policy is a plain model: an adapter on 4 bits was merged into the values that these stand for."""
        return self.reference_loading if self.run_path == "sft" else self.trusted_loading

    def resolved_config(self, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """The config of the task with every default; sections may be left out."""
        names = {"name": self.config_name, "task": self.task}
        return names | self.config.tasks[self.task].model_dump(mode="json", exclude=set(without))

    @property
    def provenance(self) -> str:
        """The line below a table that says what made it: the config with a hash of the task's section, the version.

        Of `resources` only given threads are in the hash, as the others change no result.
        """
        section = self.section.model_dump(mode="json", exclude={"resources"})
        section |= {"threads": threads} if (threads := self.section.resources.threads) else {}
        digest = hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()[:12]
        return f"config {self.config_name}, task {self.task} (settings {digest}); sparsepo {__version__}"

    def splits(self, *measures: str) -> Splits:
        """The splits that measures are taken on: validation only where a metric of them chooses a point of the grid."""
        own = self.section.evaluation
        chooses = own.selected_by != "accuracy" and own.validated[own.selected_by] in measures
        return ["validation", "test"] if chooses else ["test"]


def quantized_loading(task: TaskConfig) -> Loading:
    """Keyword arguments of `load_model` for frozen weights in 4 bits, if the task's adapter asks for that."""
    adapter = task.training.adapter
    if adapter is None or adapter.quantization == "none":
        return {}
    return {"quantization": adapter.quantization, "compute": task.training.precision}


def reference_caches(task: TaskConfig, run: Run) -> tuple[str, ...]:
    """The kinds of cached outputs of the reference that a run reads instead of running it."""
    if task.training.reference != "cached" or quantized_loading(task):
        return ()
    return METHODS[run.method].required_reference_outputs(run.hyper, task.training.log_kl) or ()


def runs_together(task: TaskConfig) -> dict[str, list[str]]:
    """Path of a run -> the paths of the runs that one job trains together with it, itself included.

    They have the same seed and pairs, and run the reference; a run that is trained alone is left out.
    """
    groups, most = defaultdict(list), task.training.together
    for run in runs_of(task) if most > 1 else ():
        row = METHODS[run.method]
        runs_reference = row.required_reference_outputs(run.hyper, task.training.log_kl) != ()
        if row.trainer == "pairs" and runs_reference and not reference_caches(task, run):
            groups[run.seed, oracle_of(task, run.path)].append(run.path)
    numbers = {key: -(-len(paths) // most) for key, paths in groups.items()}
    chunks = [groups[key][start::number] for key, number in numbers.items() for start in range(number)]
    return {path: chunk for chunk in chunks if len(chunk) > 1 for path in chunk}
