"""What the settings of all stages share.

Snakemake runs a job again when its settings change. So they hold what can change the output of the stage, and nothing
else: `only_fields` and `without_fields` leave out fields of a section, for which the script sees defaults.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, PlainSerializer, ValidationError

from sparsepo.config import Config, TaskConfig
from sparsepo.config.accelerate import read_accelerate
from sparsepo.config.base import Section
from sparsepo.config.models import ModelConfig
from sparsepo.config.runs import Run, find_run
from sparsepo.config.training import OptimisationConfig
from sparsepo.methods.registry import METHODS
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.validation import error_message

Loading = dict[str, bool | str]
"""Keyword arguments of `load_model`."""
Splits = list[Literal["validation", "test"]]


def only_fields(*names: str) -> PlainSerializer:
    """Annotation of a section of which these fields alone are passed on."""
    return PlainSerializer(lambda section: section.model_dump(mode="json", include=_checked(names, section)))


def without_fields(*names: str) -> PlainSerializer:
    """Annotation of a section of which all fields but these are passed on."""
    return PlainSerializer(lambda section: section.model_dump(mode="json", exclude=_checked(names, section)))


def _checked(names: tuple[str, ...], section: BaseModel) -> set[str]:
    """A name that is no field of the section would go unnoticed."""
    assert type(section).model_fields.keys() >= set(names), set(names) - type(section).model_fields.keys()
    return set(names)


def as_plain(section: BaseModel | None) -> dict[str, Any] | None:
    """A section of the config as plain values."""
    return None if section is None else section.model_dump(mode="json")


@dataclass(frozen=True)
class Job:
    """What the settings of a job are taken from.

    `section`: the config of its task, or of the oracle that it is for (see `as_task`). `run_path`: its run, or `sft`.
    `owners`: task -> name of the config that it belongs to, where several configs are given.
    """

    config: Config
    task: str
    section: TaskConfig
    run_path: str = "sft"
    owners: Mapping[str, str] | None = None

    @property
    def config_name(self) -> str:
        return (self.owners or {}).get(self.task, self.config.name)

    @property
    def run(self) -> Run | None:
        """The run of this job; None for the SFT model."""
        return None if self.run_path == "sft" else find_run(self.section, self.run_path)

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

    def splits(self, measure: str) -> Splits:
        """The splits that a measure is taken on: validation only where its metric chooses a point of the grid."""
        evaluation = self.section.evaluation
        metric = evaluation.selected_by
        return ["validation", "test"] if metric != "accuracy" and evaluation.validated[metric] == measure else ["test"]


def quantized_loading(task: TaskConfig) -> Loading:
    """Keyword arguments of `load_model` for frozen weights in 4 bits, if the task's adapter asks for that."""
    adapter = task.training.adapter
    if adapter is None or adapter.quantization == "none":
        return {}
    return {"quantization": adapter.quantization, "compute": task.training.precision}


def accelerate_settings(section: OptimisationConfig | None) -> str | None:
    """What the accelerate config of a section says, without its comments, so that a change of the file is seen."""
    if section is None or section.accelerate is None:
        return None
    return repr(read_accelerate(section.accelerate))


def chat_template_text(model: ModelConfig) -> str | None:
    """What the file of the chat template says, if there is one, so that a change of the file is seen."""
    given = model.chat_template
    return None if given in ("auto", "hh", "none") else Path(given).read_text(encoding="utf-8")


class StageSettings(Section):
    """The settings of a stage; this class itself where a stage reads nothing of the config."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """The settings of a job."""
        return cls()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The settings in a JSON text. Raises UserError with one line for each field that is wrong."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            lines = [f"--settings: {'.'.join(map(str, each['loc']))}: {error_message(each)}" for each in error.errors()]
            raise UserError("\n".join(lines)) from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the JSON."""
        return self.model_dump(mode="json")

    def as_json(self) -> str:
        """JSON with sorted keys, which Snakemake compares."""
        return json.dumps(self.as_dict(), sort_keys=True)


class MethodSettings(StageSettings):
    """A method with all its parameters. `definition`: its row of the table of methods, so that a change is seen."""

    method: str
    hyper: dict[str, Any]
    definition: dict[str, Any]

    @staticmethod
    def method_fields(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
        row = METHODS[method]
        return {"method": method, "hyper": row.resolve(given), "definition": row.definition}


class RunHeader(Section):
    """What names a run in every file of measures; `params` are the values of its grid as text."""

    label: str
    method: str
    params: dict[str, str]
    run: str
    seed: int | None
    task: str

    @classmethod
    def of(cls, job: Job) -> Self:
        run = job.run
        if run is None:
            return cls(label="SFT", method="sft", params={}, run="sft", seed=None, task=job.task)
        label, params = METHODS[run.method].label, dict(run.params)
        return cls(label=label, method=run.method, params=params, run=job.run_path, seed=run.seed, task=job.task)
