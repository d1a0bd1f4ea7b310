"""The config as pydantic models, one module a section: each key with its type, default and description."""

import math
from collections.abc import Iterator
from itertools import permutations
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sparsepo.config.base import Count, LocatedError, PathName, Positive, Section, Seed, Text, must, raise_error
from sparsepo.config.data import DataConfig
from sparsepo.config.evaluation import EvaluationConfig
from sparsepo.config.grids import MAX_RUNS, Methods
from sparsepo.config.models import ChatOptions, ModelConfig
from sparsepo.config.online import methods_trained_by, on_policy_errors, rounds_errors
from sparsepo.config.oracles import OracleConfig, oracle_errors
from sparsepo.config.preferences import (
    ExecutedPreferences,
    ExecutionConfig,
    FilePreferences,
    GeneratedPreferences,
    SamplingConfig,
)
from sparsepo.config.scale import ScaleConfig, scaled
from sparsepo.config.scorers import ScorerJudge
from sparsepo.config.tracking import TrackingConfig
from sparsepo.config.training import PreferenceConfig, SftConfig
from sparsepo.methods.parameters import OracleName
from sparsepo.methods.plugins import load_plugins
from sparsepo.methods.registry import METHODS
from sparsepo.runtime.errors import UserError

UNSCORED = ("transcripts", "messages", "comparisons", "executed", "unpaired")
"""Sources of preferences whose responses have no scores."""


class ResourceConfig(Section):
    """What the jobs of a task ask a scheduler for; docs/scale.md says how it is computed."""

    mem_mb: Count | None = None
    """Megabytes of memory of each job; null computes them from the size of the model and of its batches."""
    runtime: Count | None = None
    """Minutes of the first attempt of each job; null computes them."""
    parameters: Positive | None = None
    """Number of weights of a model whose name does not say it, as in 1.4e9."""
    device: Literal["cpu", "gpu"] | None = None
    """What jobs run on; null takes a model of more than 500 million weights to run on a GPU."""
    threads: Count | None = None
    """CPU threads of each job that runs a model; null is 2 for SFT and for building preferences, and 1 for the others.
    Another number changes results in their last digits, so it makes them again."""


class TaskConfig(Section):
    """One comparison: a model, its data, its preference pairs, and the methods with their grids."""

    model: ModelConfig
    """The model that SFT, or training without SFT, starts from."""
    policy: Annotated[ModelConfig | None, Field(exclude_if=lambda policy: policy is None)] = None
    """The model that policies of methods on pairs start from, with the tokenizer of `model`; null starts them from the
    reference, which is the model after SFT either way."""
    data: DataConfig
    """Where prompts and the SFT corpus come from."""
    sft: SftConfig | None = None
    """Supervised fine-tuning before preference training; null takes the model as it is for the reference."""
    preferences: Annotated[GeneratedPreferences | FilePreferences | ExecutedPreferences, Field(discriminator="source")]
    """Where preference pairs come from."""
    oracles: dict[OracleName, OracleConfig] = {}
    """Models that score the tokens of the pairs, by a name that the parameter `oracle` of a method gives."""
    methods: Methods
    """The methods that are compared: each runs once for every combination of its values and every seed. A list of grids
    runs the combinations of each."""
    seeds: Annotated[
        list[Seed],
        Field(min_length=1),
        must(lambda seeds: len(set(seeds)) == len(seeds), "seeds must be distinct, not {}"),
    ] = [0]
    """Seeds of training; several show how much results vary between runs."""
    training: PreferenceConfig = PreferenceConfig()
    """Preference training, the same for all methods but for the keys that a grid sets."""
    sampling: SamplingConfig = SamplingConfig()
    """How a trained policy is sampled, for its reward and its KL."""
    evaluation: EvaluationConfig
    """What is measured of every run."""
    execution: ExecutionConfig = ExecutionConfig()
    """How generated programs are run."""
    resources: ResourceConfig = ResourceConfig()
    """What jobs ask a scheduler for."""
    scale: ScaleConfig = ScaleConfig()
    """Factors that make the task smaller or larger."""

    def _errors(self) -> Iterator[LocatedError]:
        yield from oracle_errors(self)
        yield from self._data_errors()
        yield from self._function_errors()
        yield from self._adapter_errors()
        yield from self._policy_errors()
        yield from self._evaluation_errors()
        yield from on_policy_errors(self)
        yield from rounds_errors(self)
        yield from self._number_errors()

    @property
    def grids(self) -> list[tuple[str, dict[str, list[str]]]]:
        """Each grid with its method, in order."""
        return [(method, grid) for method, grids in self.methods.items() for grid in grids]

    @property
    def fits(self) -> bool:
        """Whether a scorer of this task is fitted in the pipeline."""
        return any(scorer.kind == "tfidf" for _, scorer in self._scorers())

    def _scorers(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Every scorer of the task, with the keys that lead to it."""
        if isinstance(self.preferences, GeneratedPreferences):
            yield ("preferences", "scorer"), self.preferences.scorer
        if isinstance(self.training.rounds.judge, ScorerJudge):
            yield ("training", "rounds", "judge", "scorer"), self.training.rounds.judge.scorer
        yield from ((("evaluation", *keys), scorer) for keys, scorer in self.evaluation.scorers)

    @property
    def columns(self) -> dict[str, bool]:
        """The columns of the data that functions of this task take -> whether one of them needs it."""
        columns: dict[str, bool] = {}
        for _, scorer in self._scorers():
            if scorer.kind == "python":
                columns |= {
                    name: name in scorer.parameters.needed or columns.get(name, False)
                    for name in scorer.parameters.columns
                }
        return columns

    def _function_errors(self) -> Iterator[LocatedError]:
        """Functions of the user where they have no place, or that take columns which the data do not have."""
        source = self.data.source
        has = {"preferences": ["reference"], "problems": ["reference"], "texts": [], "planted": []}.get(source)
        for location, scorer in self._scorers():
            if scorer.kind != "python":
                continue
            if not scorer.higher_is_better and location[:2] != ("evaluation", "extra_scorers"):
                message = "a reward is better when higher: return its negative, or move it to evaluation.extra_scorers"
                yield message, (*location, "higher_is_better")
            missing = [name for name in scorer.parameters.needed if has is not None and name not in has]
            if missing:
                names = f"has the column {', '.join(has)} only" if has else "has no columns"
                message = (
                    f"the function takes '{missing[0]}', and data.source '{source}' {names}: use source prompts, or "
                    "give the parameter a default"
                )
                yield message, (*location, "function")

    def _data_errors(self) -> Iterator[LocatedError]:
        """What does not fit together of model, data, preferences and the methods that read them."""
        source, data = self.preferences.source, self.data.source
        needed = {"generated": ("planted", "texts", "prompts"), "executed": ("problems",)}.get(source, ("preferences",))
        if data not in needed:
            message = f"preferences.source '{source}' needs data.source {' or '.join(needed)}, not '{data}'"
            yield message, ("data", "source")
        for name in self.methods:
            unscored = sorted(getattr(self.preferences, "sources", {source}).intersection(UNSCORED))
            if METHODS[name].needs_scores and unscored:
                given = f"preferences.source '{unscored[0]}'"
                yield f"'{name}' needs a score of each response, which {given} does not give", ("methods", name)
            if source == "unpaired" and METHODS[name].loss != "kto":
                message = f"'{name}' needs pairs; with preferences.source 'unpaired' only kto can be trained"
                yield message, ("methods", name)
        if data == "prompts" and self.sft is not None:
            yield "data.source 'prompts' has no texts to train on; write sft: null, or use source: texts", ("sft",)
        for location, scorer in self._scorers():
            if scorer.kind == "tfidf" and not getattr(self.data, "labelled", 0):
                yield "a tfidf scorer is fitted to data.labelled documents or prompts; data gives none", location
        if self.model.source == "scratch" and self.sft is None:
            yield "a model from scratch knows nothing: it needs an 'sft' section", ("sft",)

    def _adapter_errors(self) -> Iterator[LocatedError]:
        """Why the adapter of SFT cannot be kept as one, and its base loaded again by all later jobs."""
        adapter = self.sft.adapter if self.sft else None
        if adapter is None or adapter.merge:
            return
        location, instead = ("sft", "adapter", "merge"), "write merge: true"
        for model in filter(None, [self.model, *(oracle.model for oracle in self.oracles.values())]):
            if model.source in ("scratch", "gguf"):
                yield f"a model of source '{model.source}' is no base that an adapter can name: {instead}", location
            if getattr(model, "pickled_weights", False):
                yield f"later jobs load the base of an adapter from safetensors only: {instead}", location
        training = self.training.adapter
        if adapter.quantization != "none" and (training is None or training.quantization == "none"):
            message = f"all later jobs keep these weights in 4 bits, which training.adapter does not: {instead}"
            yield message, location

    def _policy_errors(self) -> Iterator[LocatedError]:
        """Why policies cannot start from the model of `policy`."""
        start, adapter = self.policy, self.training.adapter
        if start is None:
            return
        if start.source == "scratch":
            message = "a model from scratch knows nothing: give one of source hub, folder or gguf"
            yield message, ("policy", "source")
        for name, field in ChatOptions.model_fields.items():
            if getattr(start, name) != field.get_default(call_default_factory=True):
                yield "prompts become text as 'model' says: leave it out", ("policy", name)
        if getattr(start, "trust_remote_code", False) != getattr(self.model, "trust_remote_code", False):
            message = "both models are loaded in one way: give it the value that it has in 'model'"
            yield message, ("policy", "trust_remote_code")
        for name in (name for name in self.methods if METHODS[name].trainer != "pairs"):
            message = f"policies of '{name}' start from the reference: leave 'policy' out, or this method"
            yield message, ("methods", name)
        if adapter is not None and adapter.quantization != "none":
            message = (
                "the reference of a policy that starts from another model is not in 4 bits: write quantization: none"
            )
            yield message, ("training", "adapter", "quantization")

    def _evaluation_errors(self) -> Iterator[LocatedError]:
        """What the evaluation cannot measure of this task."""
        if self.evaluation.code and self.data.source != "problems":
            yield f"pass@k needs data.source problems, not '{self.data.source}'", ("evaluation", "code")
        for suite in self.evaluation.code.plus if self.evaluation.code else ():
            if "numpy" not in self.execution.packages:
                message = "tests of EvalPlus import numpy: write execution: {packages: [numpy]}"
                yield message, ("evaluation", "code", f"{suite}_plus")
        baseline = self.evaluation.baseline
        if baseline is not None and baseline not in ("sft", *self.methods):
            yield f"'{baseline}' is not among the methods of this task", ("evaluation", "baseline")
        for place, opponent in enumerate(self.evaluation.win_rate_against):
            if opponent not in ("chosen", "sft", *self.methods):
                allowed = ", ".join(("chosen", "sft", *self.methods))
                message = f"'{opponent}' is nothing to compare with; allowed: {allowed}"
                yield message, ("evaluation", "win_rate_against", place)
        if self.evaluation.win_rate and "chosen" in self.evaluation.win_rate_against and self.data.source in UNANSWERED:
            message = f"data.source '{self.data.source}' has no chosen responses: write win_rate_against: [sft]"
            yield message, ("evaluation", "win_rate_against")
        if self.evaluation.scorer is None and self.training.frontier_every:
            yield "points of the frontier need evaluation.scorer; set frontier_every: 0", ("training", "frontier_every")

    def _number_errors(self) -> Iterator[LocatedError]:
        """Numbers of runs, prompts and pairs that are too large or too small for each other."""
        prompts, batch_size = self.data.prompts, self.training.batch_size
        runs = len(self.seeds) * sum(prod(map(len, grid.values())) for _, grid in self.grids)
        if runs > MAX_RUNS:
            yield f"all grids and seeds together give {runs} runs, more than {MAX_RUNS}", ("methods",)
        with_pairs = len(methods_trained_by("on_policy", self.methods)) < len(self.methods)
        if with_pairs and prompts.train is not None and prompts.train < batch_size:
            pairs = f"{prompts.train} prompts give at most {prompts.train} pairs"
            yield f"{pairs}, fewer than one batch of {batch_size} (training.batch_size)", ("data", "prompts", "train")
        measures = self.training.frontier_every or (
            self.evaluation.scorer and methods_trained_by("rounds", self.methods)
        )
        for *path, sampling in (
            ("preferences", "sampling", getattr(self.preferences, "sampling", None)),
            ("sampling", self.sampling),
            ("evaluation", "generation", self.evaluation.generation),
        ):
            context = getattr(self.model, "context", math.inf)
            if sampling is not None and sampling.max_new_tokens >= context:
                message = f"the context of the model, {context} tokens, also has to hold the prompt: reduce it"
                yield message, (*path, "max_new_tokens")
        if self.evaluation.frontier_prompts > prompts.test and measures:
            message = (
                f"at most the {prompts.test} test prompts (data.prompts.test) can be sampled, "
                f"not {self.evaluation.frontier_prompts}"
            )
            yield message, ("evaluation", "frontier_prompts")


UNANSWERED = ("planted", "texts")
"""Sources of data whose prompts have no chosen response."""


class Config(Section):
    """A config file of sparsepo."""

    extends: Annotated[str | None, Field(exclude=True)] = None
    """Another config file, relative to the folder of this one, on top of which this one lies: maps are merged, lists
    and single values replaced. Paths of data in both are relative to the working directory."""
    name: PathName
    """A name for the results, so that another config cannot overwrite them by mistake."""
    tasks: Annotated[dict[PathName, TaskConfig], Field(min_length=1)]
    """The comparisons, each by a name that becomes its folder in results/."""
    plugins: list[Text] = []
    """Python files beside this config, or installed modules, that register masks and methods; see docs/extending.md."""
    tracking: TrackingConfig | None = None
    """Trackers that curves and tables are sent to; null sends nothing."""

    @model_validator(mode="before")
    @classmethod
    def _load_plugins(cls, values: Any) -> Any:
        """Before the methods of tasks are checked, which may be those of plugins."""
        given = values.get("plugins") if isinstance(values, dict) else None
        for index, source in enumerate(given if isinstance(given, list) else [""]):
            try:
                load_plugins([source] if isinstance(source, str) and source else [])
            except UserError as error:
                raise_error(str(error), "plugins", *[index] * bool(given))
        return values

    @field_validator("tasks")
    @classmethod
    def _check_names(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        for name in {"tables", "figures", "report", "plan.json"} & set(tasks):
            raise_error(f"a task cannot be named '{name}', which results/ has for all tasks", name)
        for name, other in permutations(tasks, 2):
            if other in (f"{name}_grid", f"{name}_differences"):
                message = f"'{other}' is also what a table of the task '{name}' is called; rename one of them"
                raise_error(message, other)
        return tasks

    def scaled(self) -> "Config":
        """The config with the numbers of each task multiplied by its `scale`."""
        tasks = {name: scaled(task.model_dump(exclude={"scale"}), task.scale) for name, task in self.tasks.items()}
        return Config(name=self.name, tasks=tasks, plugins=self.plugins, tracking=self.tracking)
