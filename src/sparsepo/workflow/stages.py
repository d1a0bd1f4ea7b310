"""What the workflow asks of a config: tasks, runs, and what each stage reads, as text that can be compared."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsepo import __version__
from sparsepo.config import Config, TaskConfig
from sparsepo.config.loading import load_with_owners
from sparsepo.config.runs import (
    as_task,
    find_run,
    oracle_of,
    oracle_selected_runs,
    patterns_of,
    patterns_of_rounds,
    runs_of,
)
from sparsepo.methods.registry import METHODS
from sparsepo.monitor.plan_file import WATCHED, Plan
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.launch import python_command
from sparsepo.runtime.result_cache import file_hash
from sparsepo.workflow.code_version import code_version
from sparsepo.workflow.resources import UNKNOWN_SIZE_WARNING, has_unknown_size, job_resources
from sparsepo.workflow.stage_settings import SETTINGS, fitted, quantization_kwargs

PAGE = Path(__file__).parents[1] / "report" / "html"
"""Where the templates, styles and scripts of the page lie, which are code too."""


@dataclass(frozen=True)
class Stages:
    """A checked config, seen from the rules; `owners`: the name of the config that each task belongs to."""

    config: Config
    owners: Mapping[str, str] = field(default_factory=dict)
    _asked: dict[tuple[str, str, str], dict[str, int]] = field(default_factory=dict, init=False, repr=False)
    _settings: dict[tuple[str, ...], str] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def read(cls, paths: Sequence[str | Path], overrides: Mapping[str, Any]) -> "Stages":
        """Load and check; also refuse results of another config, and warn of a model whose size nobody knows."""
        made = cls(*load_with_owners(paths, overrides))
        for task, owner in made.owners.items():
            check_owner(Path("results") / task / "data.json", owner)
            for oracle in ("", *made.config.tasks[task].oracles):
                if has_unknown_size(made._section(task, oracle)):
                    place = f"tasks.{task}.{f'oracles.{oracle}.' * bool(oracle)}model"
                    print(f"warning: {place}: {UNKNOWN_SIZE_WARNING}", file=sys.stderr)
        return made

    @property
    def tasks(self) -> list[str]:
        return list(self.config.tasks)

    def runs(self, task: str, sft: bool = True) -> list[str]:
        """Paths of the runs of a task; `sft` is the reference itself."""
        return ["sft"] * sft + [run.path for run in runs_of(self.config.tasks[task])]

    def first_run(self, task: str, method: str, **_: Any) -> str:
        """The first point and seed of a method."""
        return next(run.path for run in runs_of(self.config.tasks[task]) if run.method == method)

    def oracle(self, task: str, run: str) -> str | None:
        """The oracle of this task whose scores this run reads."""
        if run == "sft":
            return None
        return oracle_of(self.config.tasks[task], run)

    def pairs(self, split: str, task: str, run: str, **_: Any) -> str:
        """The pairs of a split as this run reads them: those of the task, or scored by its oracle."""
        oracle = self.oracle(task, run)
        return f"results/{task}/{f'oracles/{oracle}' if oracle else 'preferences'}/{split}.jsonl"

    def oracle_selected_runs(self, task: str, **_: Any) -> list[str]:
        """The runs that keep the tokens of the highest scores of an oracle of this task."""
        return oracle_selected_runs(self.config.tasks[task])

    def base(self, task: str, oracle: str) -> str:
        """The folder of the model that an oracle starts from, and is compared with."""
        own = self.config.tasks[task].oracles[oracle].model is not None
        return f"results/{task}/{f'oracles/{oracle}/' * own}sft"

    def cached(self, task: str, run: str) -> tuple[str, ...]:
        """What this run reads of the reference instead of running it."""
        section = self.config.tasks[task]
        made = find_run(section, run)
        needs = METHODS[made.method].required_reference_outputs(made.hyper, section.training.log_kl)
        cacheable = section.training.reference == "cached" and not quantization_kwargs(section)
        return needs or () if cacheable else ()

    def parts(self, task: str) -> list[str]:
        """What is measured of the runs of a task, beside what every run is scored for."""
        evaluation = self.config.tasks[task].evaluation
        sections = {
            "summaries": evaluation.summaries,
            "wins": evaluation.win_rate,
            "benchmarks": evaluation.benchmarks,
            "code": evaluation.code,
        }
        return [part for part, section in sections.items() if section]

    def sampled(self, task: str) -> list[str]:
        """What is sampled of the runs of a task."""
        evaluation = self.config.tasks[task].evaluation
        return ["samples"] + ["generations"] * bool(evaluation.generation) + ["programs"] * bool(evaluation.code)

    def fitted(self, task: str) -> list[str]:
        """The scorers that are fitted in the pipeline for this task, as files."""
        return [f"{fitted(task)}/report.json"] if self.config.tasks[task].fits else []

    def figures(self, task: str) -> list[str]:
        """Frontier and diversity where responses have a reward, temperatures where there are several, and others."""
        evaluation = self.config.tasks[task].evaluation
        several = evaluation.generation and len(evaluation.generation.temperatures) > 1
        drawn = ["frontier", "diversity"] * bool(evaluation.scorer) + ["temperatures"] * bool(several)
        drawn += ["rounds"] * bool(evaluation.scorer and self.trains("rounds", task))
        drawn += ["selection"] * bool(self.oracle_selected_runs(task))
        return [*drawn, "sparsity", "token_kl", "tokens/{method}"]

    @property
    def run_patterns(self) -> list[str]:
        """Regular expressions that match every run of every task."""
        return sorted({"sft"} | {pattern for task in self.config.tasks.values() for pattern in patterns_of(task)})

    def trained(self, trainer: str) -> str:
        """A regular expression of the runs that are trained by this trainer; of none where no method of a task is."""
        found = {
            pattern
            for task in self.config.tasks.values()
            for method, pattern in zip(task.methods, patterns_of(task), strict=True)
            if METHODS[method].trainer == trainer
        }
        return "|".join(sorted(found)) or "(?!)"

    def trains(self, trainer: str, task: str | None = None) -> bool:
        """Whether some run, of a task or of any, is trained by this trainer."""
        tasks = self.config.tasks.values() if task is None else [self.config.tasks[task]]
        return any(METHODS[method].trainer == trainer for section in tasks for method in section.methods)

    @property
    def shared_rounds(self) -> str:
        """A regular expression of what runs of rounds have `shared`."""
        return "|".join(sorted({one for task in self.config.tasks.values() for one in patterns_of_rounds(task)}))

    def runs_by(self, trainer: str, task: str) -> list[str]:
        """Paths of the runs of a task that this trainer trains."""
        return [run.path for run in runs_of(self.config.tasks[task]) if METHODS[run.method].trainer == trainer]

    def rounds(self, task: str, run: str) -> tuple[str, list[int]]:
        """What a run of rounds has `shared`, which names the folder of its rounds, and the numbers of the rounds."""
        made = find_run(self.config.tasks[task], run)
        return made.shared.path, list(range(1, made.iterations + 1))

    def processes(self, task: str, stage: str) -> int:
        """How many processes, and GPUs, a job of this stage takes."""
        return self.config.tasks[task].num_processes(stage)

    def python(self, task: str, stage: str) -> str:
        """What runs the script of this stage, as text for a shell."""
        section = self.config.tasks[task].training_of(stage)
        return python_command(self.processes(task, stage), section and section.accelerate)

    def resources(self, task: str, stage: str, oracle: str = "", **_: Any) -> dict[str, int]:
        """`mem_mb` and `runtime`, minutes of the first attempt, that a job of this stage asks for."""
        if (task, stage, oracle) not in self._asked:
            self._asked[task, stage, oracle] = job_resources(self._section(task, oracle), stage)
        return self._asked[task, stage, oracle]

    def input_hashes(self, task: str) -> str:
        """Content of the user's own files, which Snakemake compares like any other setting."""
        section = self.config.tasks[task]
        paths = [getattr(part, "path", None) for part in (section.data, section.preferences)]
        local = section.evaluation.benchmarks.local if section.evaluation.benchmarks else []
        paths += [task.path for task in local]
        return " ".join(file_hash(path) for path in paths if path is not None)

    def model_files(self, task: str, oracle: str = "") -> list[str]:
        """The files of a model folder that the user names, which are inputs like any other."""
        model = self._section(task, oracle).model
        return sorted(map(str, model.path.glob("*.*"))) if model.source == "folder" else []

    def plan(self, jobs: Iterable[tuple[str, str, str, bool]], **start: Any) -> Plan:
        """What a start of the workflow is to make, in the order of the config.

        jobs: rule, task, run (or kind of cache) and whether it is to be made; rules that nobody watches are left out.
        start: the process, the host and the time, see Plan.
        """
        stages = {rule: name for name, stage in WATCHED.items() for rule in (stage.rule, *stage.also)}
        places = {run: place for task in self.tasks for place, run in enumerate(self.runs(task))}
        found = {task: {name: {} for name in WATCHED} for task in self.tasks}
        for rule, task, item, due in sorted(jobs, key=lambda job: places.get(job[2], 0)):
            if rule in stages:
                found[task][stages[rule]][item] = due
        tasks = {task: {name: items for name, items in made.items() if items} for task, made in found.items()}
        return Plan(list(dict.fromkeys(map(self._owner, self.tasks))), tasks, **start)

    def resolved(self, task: str, without: Sequence[str] = ()) -> str:
        """JSON of the config of a task, every default written out; sections may be left out."""
        named = {"name": self._owner(task), "task": task}
        return json.dumps(named | self.config.tasks[task].model_dump(mode="json", exclude=set(without)), sort_keys=True)

    def page(self) -> str:
        """JSON of what the page shows: each task with its config, the settings of its runs, and what was measured."""
        tasks = {
            task: {
                "config": json.loads(self.resolved(task, without=("resources",))),
                "points": list(dict.fromkeys(run.rsplit("/", 1)[0] for run in self.runs(task, sft=False))),
                "parts": self.parts(task),
                "compare": json.loads(self.settings("compare", task)),
            }
            for task in self.tasks
        }
        looks = [file_hash(path) for part in ("static", "templates") for path in sorted((PAGE / part).iterdir())]
        return json.dumps({"name": self.config.name, "version": __version__, "tasks": tasks, "looks": looks})

    def code(self, stage: str, task: str = "", run: str = "sft", kind: str = "", oracle: str = "", **given: str) -> str:
        """Hash of the code that a job of this stage uses; `script` is given where it has not the stage's name."""
        settings = self.settings(stage, task, run, oracle) if stage in SETTINGS else "{}"
        if kind.startswith("weights~"):
            settings = f'[{settings}, {{"mask": "activations"}}]'
        return code_version(f"workflow_scripts/{given.get('script') or stage}.py", settings)

    def settings(self, stage: str, task: str, run: str = "sft", oracle: str = "", **_: Any) -> str:
        """JSON of everything in the config that can change what `stage` makes, and nothing else."""
        key = stage, task, run, oracle
        if key not in self._settings:
            section, run = self._made(task, run, oracle)
            config = self.config.model_copy(update={"name": self._owner(task)})
            self._settings[key] = json.dumps(SETTINGS[stage](config, section, task, run), sort_keys=True)
        return self._settings[key]

    def _section(self, task: str, oracle: str = "") -> TaskConfig:
        """The section of a task; of an oracle, the task whose only run it is."""
        section = self.config.tasks[task]
        return as_task(section, oracle) if oracle else section

    def _made(self, task: str, run: str, oracle: str) -> tuple[TaskConfig, str]:
        """The section that a job belongs to and the run in it."""
        section = self._section(task, oracle)
        return section, runs_of(section)[0].path if oracle else run

    def _owner(self, task: str) -> str:
        return self.owners.get(task, self.config.name)


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
