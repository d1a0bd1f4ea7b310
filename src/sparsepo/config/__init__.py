"""The config as pydantic models: the one place where a default is written, and where a mistake gets its sentence."""

from collections.abc import Iterator
from itertools import permutations
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sparsepo.config.base import Count, Factor, Name, Positive, Seed, Strict, refuse, refuse_all
from sparsepo.config.data import DataConfig
from sparsepo.config.evaluation import EvaluationConfig, ScorerJudge
from sparsepo.config.grids import Mistake, as_texts, grid_mistakes
from sparsepo.config.models import ModelConfig
from sparsepo.config.online import methods_of_rounds, on_policy_methods, on_policy_mistakes, rounds_mistakes
from sparsepo.config.oracles import OracleConfig, oracle_mistakes
from sparsepo.config.preferences import (
    ExecutedPreferences,
    ExecutionConfig,
    FilePreferences,
    GeneratedPreferences,
    SamplingConfig,
)
from sparsepo.config.training import OptimisationConfig, PreferenceConfig, SftConfig
from sparsepo.methods.registry import METHODS


class ResourceConfig(Strict):
    """What the jobs of a task ask of a scheduler: memory (MB), and minutes of a job's first attempt.

    Each is computed from the size of the model and of its batches unless it is given here; docs/scale.md says how.
    `parameters`: the number of weights of a model whose name does not say it, as in 1.4e9. `device`: what jobs run on;
    a model of more than 500 million weights is taken to run on a GPU.
    """

    mem_mb: Count | None = None
    runtime: Count | None = None
    parameters: Positive | None = None
    device: Literal["cpu", "gpu"] | None = None


MOST_RUNS = 10_000
UNSCORED = ("transcripts", "messages", "comparisons", "executed")
"""Sources of preferences whose responses have no scores."""


class ScaleConfig(Strict):
    """Factors on the numbers of a task: prompts and documents, tokens of a response, and steps (epochs)."""

    prompts: Factor = 1.0
    tokens: Factor = 1.0
    steps: Factor = 1.0


class TaskConfig(Strict):
    """One comparison: a model, its data, its preferences, and the methods with their grids."""

    model: ModelConfig
    data: DataConfig
    sft: SftConfig | None = None
    preferences: Annotated[GeneratedPreferences | FilePreferences | ExecutedPreferences, Field(discriminator="source")]
    oracles: dict[str, OracleConfig] = {}
    methods: dict[str, dict[str, Any]]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    training: PreferenceConfig = PreferenceConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig
    execution: ExecutionConfig = ExecutionConfig()
    resources: ResourceConfig = ResourceConfig()
    scale: ScaleConfig = ScaleConfig()

    @field_validator("methods")
    @classmethod
    def _grids(cls, methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[str]]]:
        if not methods:
            refuse("at least one method is needed")
        for name, given in methods.items():
            points = prod(len(as_texts(values)) for values in given.values())
            if points > MOST_RUNS:
                refuse(f"the grid has {points} points, more than {MOST_RUNS}", name)
        refuse_all(mistake for name, given in methods.items() for mistake in grid_mistakes(name, given))
        return {name: {key: as_texts(values) for key, values in given.items()} for name, given in methods.items()}

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            refuse(f"seeds must be distinct, not {seeds}")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> "TaskConfig":
        refuse_all(self._misfits())
        return self

    @property
    def fits(self) -> bool:
        """Whether a scorer of this task is fitted in the pipeline."""
        return any(scorer.kind == "tfidf" for _, scorer in self._scorers())

    def training_of(self, stage: str) -> OptimisationConfig | None:
        """How this stage trains; None if it does not."""
        return {"sft": self.sft, "train": self.training, "train_round": self.training}.get(stage)

    def num_processes(self, stage: str) -> int:
        """How many processes share a job of this stage."""
        section = self.training_of(stage)
        return 1 if section is None else section.num_processes

    def scaled(self) -> dict[str, Any]:
        """The task as plain values, its numbers multiplied by `scale`."""
        return _scaled(self.model_dump(exclude={"scale"}), self.scale.model_dump(), ())

    def _scorers(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Every scorer that the task asks for, with its place."""
        if isinstance(self.preferences, GeneratedPreferences):
            yield ("preferences", "scorer"), self.preferences.scorer
        if isinstance(self.training.rounds.judge, ScorerJudge):
            yield ("training", "rounds", "judge", "scorer"), self.training.rounds.judge.scorer
        yield from ((("evaluation", *place), scorer) for place, scorer in self.evaluation.scorers)

    def _misfits(self) -> Iterator[Mistake]:
        yield from oracle_mistakes(self)
        prompts, source, data = self.data.prompts, self.preferences.source, self.data.source
        runs = len(self.seeds) * sum(prod(map(len, grid.values())) for grid in self.methods.values())
        if runs > MOST_RUNS:
            yield f"all grids and seeds together give {runs} runs, more than {MOST_RUNS}", ("methods",)
        needs = {"generated": ("planted", "texts"), "executed": ("problems",)}.get(source, ("preferences",))
        if data not in needs:
            sentence = f"preferences.source '{source}' needs data.source {' or '.join(needs)}, not '{data}'"
            yield sentence, ("data", "source")
        if self.evaluation.code and data != "problems":
            yield f"pass@k needs data.source problems, not '{data}'", ("evaluation", "code")
        baseline = self.evaluation.baseline
        if baseline is not None and baseline not in ("sft", *self.methods):
            yield f"'{baseline}' is not among the methods of this task", ("evaluation", "baseline")
        for name in self.methods:
            if METHODS[name].needs_scores and source in UNSCORED:
                sentence = f"'{name}' needs a score of each response, which preferences.source '{source}' does not give"
                yield sentence, ("methods", name)
        for place, scorer in self._scorers():
            if scorer.kind == "tfidf" and not getattr(self.data, "labelled", 0):
                yield "a tfidf scorer is fitted to data.labelled documents or prompts; data gives none", place
        if self.evaluation.scorer is None and self.training.frontier_every:
            yield "points of the frontier need evaluation.scorer; set frontier_every: 0", ("training", "frontier_every")
        if self.model.source == "scratch" and self.sft is None:
            yield "a model from scratch knows nothing: it needs an 'sft' section", ("sft",)
        yield from on_policy_mistakes(self)
        on_pairs = len(on_policy_methods(self.methods)) < len(self.methods)
        if on_pairs and prompts.train is not None and prompts.train < self.training.batch_size:
            sentence = (
                f"{prompts.train} prompts give at most {prompts.train} pairs, fewer than one batch of "
                f"{self.training.batch_size} (training.batch_size)"
            )
            yield sentence, ("data", "prompts", "train")
        yield from rounds_mistakes(self)
        measures = self.training.frontier_every or (self.evaluation.scorer and methods_of_rounds(self.methods))
        if self.evaluation.frontier_prompts > prompts.test and measures:
            sentence = (
                f"at most the {prompts.test} test prompts (data.prompts.test) can be sampled, "
                f"not {self.evaluation.frontier_prompts}"
            )
            yield sentence, ("evaluation", "frontier_prompts")


_SCALED_BY = {
    "train": "prompts",
    "validation": "prompts",
    "test": "prompts",
    "texts": "prompts",
    "labelled": "prompts",
    "sample": "prompts",
    "prompts": "prompts",
    "problems": "prompts",
    "frontier_prompts": "prompts",
    "token_pairs": "prompts",
    "fit_prompts": "prompts",
    "max_new_tokens": "tokens",
    "max_steps": "steps",
    "num_train_epochs": "steps",
}
"""Which factor of `scale` each number of a task is multiplied by."""


def _scaled(section: Any, scale: dict[str, float], place: tuple[str, ...]) -> Any:
    """A dumped section with the numbers of `_SCALED_BY` multiplied; whole numbers stay whole and at least 1."""
    if isinstance(section, dict):
        return {key: _scaled(value, scale, (*place, key)) for key, value in section.items()}
    factor = scale[_SCALED_BY[place[-1]]] if place[-1] in _SCALED_BY and "methods" not in place else 1.0
    if factor == 1.0 or isinstance(section, bool | str | None | list) or section == 0:
        return section
    return max(1, round(section * factor)) if isinstance(section, int) else section * factor


class Config(Strict):
    """A config file. `name` marks its results, so that another config cannot overwrite them by mistake."""

    name: Name
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]

    @field_validator("tasks")
    @classmethod
    def _not_a_results_folder(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        for name in {"tables", "figures", "report", "plan.json"} & set(tasks):
            refuse(f"a task cannot be named '{name}', which results/ has for all tasks", name)
        for name, other in permutations(tasks, 2):
            if other in (f"{name}_grid", f"{name}_differences"):
                refuse(f"'{other}' is also what a table of the task '{name}' is called; rename one of them", other)
        return tasks

    def scaled(self) -> "Config":
        """The config with the numbers of each task multiplied by its `scale`."""
        return Config(name=self.name, tasks={name: task.scaled() for name, task in self.tasks.items()})
