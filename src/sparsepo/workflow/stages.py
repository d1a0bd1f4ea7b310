"""A checked config as the rules see it: tasks, runs, and what the jobs of each stage read and ask for."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sparsepo.config import Config, TaskConfig
from sparsepo.config.loading import load_with_owners
from sparsepo.config.runs import (
    as_task,
    find_run,
    oracle_of,
    oracle_selected_runs,
    run_pattern,
    runs_of,
)
from sparsepo.methods.registry import METHODS
from sparsepo.monitor.plan_file import WATCHED, Plan
from sparsepo.report.run_names import COMPARED_METHODS
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.files import file_hash
from sparsepo.runtime.launch import python_command
from sparsepo.workflow.code_version import code_version
from sparsepo.workflow.job import Job, reference_caches, runs_together
from sparsepo.workflow.registry import STAGES
from sparsepo.workflow.resources import UNKNOWN_SIZE_WARNING, job_resources, unknown_sizes
from sparsepo.workflow.settings import PlotSelectionSettings
from sparsepo.workflow.user_files import path_hash, user_file_hashes

REPORT = Path(__file__).parents[1] / "report" / "html"
"""Where the templates, styles and scripts of the page are."""
LEAST_SPACE = 1 << 16
"""Bytes on the disk without which no start makes sense."""
ARGUMENT = 100_000
"""Characters of settings in one argument of a command."""
NOTHING = "(?!)"
"""A regular expression that matches nothing: the rule of a trainer that no method uses makes no file."""


class Stages:
    """`owners`: task -> name of the config that it belongs to, where several configs are given."""

    def __init__(self, config: Config, owners: Mapping[str, str] | None = None):
        self.config, self.owners = config, owners or {}
        self._settings, self._resources = cache(self._make_settings), cache(self._make_resources)
        self._path_hash = cache(path_hash)
        self._together = cache(lambda task: runs_together(self.config.tasks[task]))
        self._resolved = cache(lambda task: json.dumps(self._job(task).resolved_config(), sort_keys=True))

    @classmethod
    def read(cls, paths: Sequence[str | Path], overrides: Mapping[str, Any]) -> "Stages":
        """Load and check configs; warn of a model whose size is not known, and of a judge whose key is not set here.

        Raises UserError also for results that belong to a config of another name, or that cannot be written.
        """
        stages = cls(*load_with_owners(paths, overrides))
        for name in (".snakemake", "logs", "results", *(f"results/{task}" for task in stages.tasks)):
            check_folder(Path(name))
        for task, owner in stages.owners.items():
            check_owner(Path("results") / task / "data.json", owner)
            for variable in missing_keys(stages.config.tasks[task]):
                print(f"warning: tasks.{task}: a judge needs the environment variable {variable}", file=sys.stderr)
            for oracle in ("", *stages.config.tasks[task].oracles):
                for key in unknown_sizes(stages._section(task, oracle)):
                    place = f"tasks.{task}.{f'oracles.{oracle}.' * bool(oracle)}{key}"
                    print(f"warning: {place}: {UNKNOWN_SIZE_WARNING}", file=sys.stderr)
        return stages

    # --- tasks and runs

    @property
    def tasks(self) -> list[str]:
        return list(self.config.tasks)

    def runs(self, task: str, sft: bool = True) -> list[str]:
        """Paths of the runs of a task, in the order of the config; the first is `sft`, the reference itself."""
        return ["sft"] * sft + [run.path for run in runs_of(self.config.tasks[task])]

    def runs_trained_by(self, trainer: str, task: str) -> list[str]:
        """Paths of the runs of a task whose method has this trainer: `pairs`, `rounds` or `on_policy`."""
        return [run.path for run in runs_of(self.config.tasks[task]) if METHODS[run.method].trainer == trainer]

    def first_run(self, task: str, method: str, **_: Any) -> str:
        """The run of the first point of a method's grid with the first seed."""
        return next(run.path for run in runs_of(self.config.tasks[task]) if run.method == method)

    def compared_runs(self, task: str, **_: Any) -> list[str]:
        """The first run of each method whose tokens stand side by side in one figure."""
        methods = self.config.tasks[task].methods
        return [self.first_run(task, method) for method in COMPARED_METHODS if method in methods]

    def oracle_selected_runs(self, task: str, **_: Any) -> list[str]:
        """The runs that keep the tokens of the highest scores of an oracle of this task."""
        return oracle_selected_runs(self.config.tasks[task])

    def rounds(self, task: str, run: str, **_: Any) -> tuple[str, list[int]]:
        """(path of the run without its number of rounds, which names the folder of its rounds; their numbers)."""
        found = find_run(self.config.tasks[task], run)
        return found.shared.path, list(range(1, found.iterations + 1))

    # --- regular expressions for wildcards

    @property
    def run_pattern(self) -> str:
        """Matches every run of every task, and `sft`."""
        return _any_of({"sft"} | self._patterns("pairs", "rounds", "on_policy"))

    @property
    def round_pattern(self) -> str:
        """Matches the paths of runs of rounds without their number of rounds."""
        return _any_of(self._patterns("rounds", shared=True))

    @property
    def oracle_pattern(self) -> str:
        return _any_of({name for task in self.config.tasks.values() for name in task.oracles})

    @property
    def other_start_pattern(self) -> str:
        """Matches the tasks whose policies start from another model than the reference."""
        return _any_of({re.escape(name) for name, task in self.config.tasks.items() if task.policy is not None})

    def run_pattern_of(self, trainer: str) -> str:
        """Matches the runs of methods with this trainer."""
        return _any_of(self._patterns(trainer))

    def _patterns(self, *trainers: str, shared: bool = False) -> set[str]:
        methods = [(task, method) for task in self.config.tasks.values() for method in task.methods]
        return {run_pattern(*each, shared) for each in methods if METHODS[each[1]].trainer in trainers}

    # --- files that jobs read and tasks ask for

    def preference_file(self, split: str, task: str, run: str, **_: Any) -> str:
        """The pairs of a split for this run: those of the task, or with the scores of the oracle that the run reads."""
        oracle = None if run == "sft" else oracle_of(self.config.tasks[task], run)
        return f"results/{task}/{f'oracles/{oracle}' if oracle else 'preferences'}/{split}.jsonl"

    def oracle_start(self, task: str, oracle: str, **_: Any) -> str:
        """The model folder that an oracle starts from."""
        has_own_model = self.config.tasks[task].oracles[oracle].model is not None
        return f"results/{task}/{f'oracles/{oracle}/' * has_own_model}sft"

    def scoring_models(self, task: str, oracle: str, **_: Any) -> list[str]:
        """The model folders that score tokens: the oracle and its base, or the SFT model where none is trained."""
        section, folder = self.config.tasks[task].oracles[oracle], f"results/{task}/oracles/{oracle}"
        start = self.oracle_start(task, oracle)
        if not section.is_trained:
            return [start]
        return [f"{folder}/policy", f"{folder}/swapped" if section.contrast else start]

    def selecting_oracles(self, task: str, **_: Any) -> list[str]:
        """The oracles whose scores select tokens in some run."""
        return list(PlotSelectionSettings.of(self._job(task)).shares)

    def reference_caches(self, task: str, run: str, **_: Any) -> tuple[str, ...]:
        """The kinds of cached outputs of the reference that this run reads instead of running it."""
        section = self.config.tasks[task]
        return reference_caches(section, find_run(section, run))

    def first_runs_together(self, task: str) -> list[str]:
        """Of the runs that a job of `train_together` trains, the first, which names the job."""
        return list(dict.fromkeys(runs[0] for runs in self._together(task).values()))

    def fitted_scorer(self, task: str, **_: Any) -> list[str]:
        """The report of the scorer that is fitted in the workflow, if this task has one."""
        return [f"results/{task}/scorer/report.json"] if self.config.tasks[task].fits else []

    def measures(self, task: str) -> list[str]:
        """What is measured of the runs of a task, each in a folder of that name."""
        return ["scores", *self.config.tasks[task].evaluation.measures]

    def opponents(self, task: str, run: str, **_: Any) -> list[str]:
        """The runs whose generations those of this run are compared with."""
        return list(self._job(task, run).opponents.values())

    def sampled(self, task: str) -> list[str]:
        """What is sampled of the runs of a task, each in a folder of that name."""
        evaluation = self.config.tasks[task].evaluation
        return ["samples"] + ["generations"] * bool(evaluation.generation) + ["programs"] * bool(evaluation.code)

    def figures(self, task: str) -> list[str]:
        """The figures of a task; those of rewards and oracles only where it has some."""
        evaluation, training = self.config.tasks[task].evaluation, self.config.tasks[task].training
        temperatures = evaluation.generation.temperatures if evaluation.generation else []
        names = ["frontier", "diversity"] * bool(evaluation.scorer) + ["temperatures"] * (len(temperatures) > 1)
        names += ["pareto"] * bool(training.frontier_every) + ["token_comparison"] * (len(self.compared_runs(task)) > 1)
        names += ["rounds"] * bool(evaluation.scorer and self.runs_trained_by("rounds", task))
        names += ["selection"] * bool(self.oracle_selected_runs(task))
        return [*names, "sparsity", "token_kl", "tokens/{method}"]

    @property
    def rewarded_tasks(self) -> list[str]:
        """The tasks whose responses have a reward."""
        return [task for task in self.tasks if self.config.tasks[task].evaluation.scorer]

    @property
    def planted_tasks(self) -> list[str]:
        """The tasks on planted data."""
        return [task for task in self.tasks if self.config.tasks[task].data.source == "planted"]

    def report_file_hashes(self) -> str:
        files = [path for folder in ("static", "templates") for path in sorted((REPORT / folder).iterdir())]
        return " ".join(map(file_hash, files))

    # --- what a job runs

    def script(self, stage: str) -> str:
        return f"{STAGES[stage].like or stage}.py"

    def settings(self, stage: str, task: str = "", run: str = "sft", oracle: str = "", **_: Any) -> str:
        """JSON of what the script of a stage reads of the config, for one job."""
        return self._settings(stage, task or self.tasks[0], run, oracle)

    def settings_arguments(self, stage: str, **job: Any) -> str | list[str]:
        """The settings as an argument of a command, or as several: Linux allows 128 kB in one, and 2 MB in all."""
        text = self.settings(stage, **job)
        parts = [text[start : start + ARGUMENT] for start in range(0, len(text), ARGUMENT)]
        return parts if len(parts) > 1 else text

    def _make_settings(self, stage: str, task: str, run: str, oracle: str) -> str:
        settings = STAGES[stage].settings.of(self._job(task, run, oracle))
        files = user_file_hashes(settings.as_dict(), self._path_hash)
        return settings.model_copy(update={"user_files": files}).as_json()

    def code_version(self, stage: str, task: str = "", run: str = "sft", kind: str = "", oracle: str = "", **_: Any):
        """Hash of the code that a job runs; of losses, masks, sources and scorers those that its settings choose."""
        settings = self.settings(stage, task, run, oracle)
        if kind.startswith("weights~"):
            settings = f'[{settings}, {{"mask": "activations"}}]'
        return code_version(f"workflow_scripts/{self.script(stage)}", settings)

    def code_versions(self, task: str, run: str, **_: Any) -> str:
        """JSON: run that is trained together with this one -> the code version of its training."""
        runs = self._together(task)[run]
        return json.dumps({each: self.code_version("train_policy", task, each) for each in runs})

    def num_processes(self, stage: str, task: str = "", **_: Any) -> int:
        """How many processes share a job of this stage, each on a GPU of its own."""
        return STAGES[stage].num_processes(self.config.tasks[task or self.tasks[0]])

    def num_machines(self, stage: str, task: str = "", **_: Any) -> int:
        return STAGES[stage].num_machines(self.config.tasks[task or self.tasks[0]])

    def slurm_resources(self, stage: str, task: str = "", **_: Any) -> dict[str, str | int]:
        """What a job on several machines asks Slurm for: one task on each node, equally many GPUs of each.

        With `mpi` the executor leaves `srun` to the job; with `tasks_per_gpu` 0 it does not multiply tasks by GPUs.
        """
        processes, machines = self.num_processes(stage, task), self.num_machines(stage, task)
        if machines == 1:
            return {}
        gres = f"gpu:{processes // machines}"
        return {"nodes": machines, "tasks": machines, "tasks_per_gpu": 0, "gres": gres, "mpi": "srun"}

    def sections_on_several_machines(self) -> list[str]:
        return [
            f"tasks.{name}.{section}"
            for name, task in self.config.tasks.items()
            for section in ("sft", "training")
            if getattr(getattr(task, section), "num_machines", 1) > 1
        ]

    def threads(self, stage: str, task: str = "", **_: Any) -> int:
        """The CPU threads that all processes of a job on a machine compute with, however many cores Snakemake has."""
        row = STAGES[stage]
        given = self.config.tasks[task or self.tasks[0]].resources.threads if row.mem_mb is None else None
        return max(given or row.threads, self.num_processes(stage, task) // self.num_machines(stage, task))

    def launcher(self, stage: str, task: str = "", **_: Any) -> str:
        """What starts the script of this stage in a shell: Python, or a launcher of several processes."""
        section = STAGES[stage].trained_section(self.config.tasks[task or self.tasks[0]])
        processes, machines = self.num_processes(stage, task), self.num_machines(stage, task)
        return python_command(processes, machines, section and section.accelerate)

    def resources(self, stage: str, task: str = "", oracle: str = "", **_: Any) -> dict[str, int]:
        """`mem_mb` and `runtime` (minutes) of a job's first attempt."""
        return self._resources(stage, task, oracle)

    def _make_resources(self, stage: str, task: str, oracle: str) -> dict[str, int]:
        fixed = STAGES[stage].fixed_resources
        return fixed if len(fixed) == 2 else job_resources(self._section(task, oracle), stage) | fixed

    def resolved_config(self, task: str, **_: Any) -> str:
        return self._resolved(task)

    # --- the plan of a start

    def plan(self, jobs: Iterable[tuple[str, str, str, bool]], **start: Any) -> Plan:
        """What a start of the workflow makes, in the order of the config.

        jobs: (stage, task, item, whether it is made now); stages that are not watched are left out.
        start: the process, the host and the time, see Plan.
        """
        order = {run: place for task in self.tasks for place, run in enumerate(self.runs(task))}
        planned = {task: {stage: {} for stage in WATCHED} for task in self.tasks}
        for stage, task, item, due in sorted(jobs, key=lambda job: order.get(job[2], 0)):
            if stage in WATCHED:
                planned[task][stage][item] = due
        tasks = {task: {stage: items for stage, items in stages.items() if items} for task, stages in planned.items()}
        names = dict.fromkeys(self.owners.get(task, self.config.name) for task in self.tasks)
        return Plan(list(names), tasks, **start)

    def _section(self, task: str, oracle: str = "") -> TaskConfig:
        """The section of a task; of an oracle, the task whose only run it is."""
        section = self.config.tasks[task]
        return as_task(section, oracle) if oracle else section

    def _job(self, task: str, run: str = "sft", oracle: str = "") -> Job:
        section = self._section(task, oracle)
        return Job(self.config, task, section, runs_of(section)[0].path if oracle else run, self.owners)


def _any_of(patterns: Iterable[str]) -> str:
    return "|".join(sorted(patterns)) or NOTHING


def check_folder(folder: Path) -> None:
    """Raises UserError where jobs cannot write to a folder, or make it: a file, a lost link, no right, a full disk."""
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder} is a link to {os.readlink(folder)}, which is not there: make it, or remove the link")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and the workflow needs a folder of that name: move it away")
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{place.absolute()} cannot be written: work in another folder (snakemake --directory)")
    if shutil.disk_usage(place).free < LEAST_SPACE:
        raise UserError(f"no space left on the disk of {place.absolute()}: make room, or work in another folder")


def check_owner(stamp: Path, name: str) -> None:
    """Raises UserError when the results of a task were made by a config of another name."""
    if not stamp.is_file():
        return
    try:
        owner = json.loads(stamp.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{stamp}: not a stamp of sparsepo; is {stamp.parent} a results folder?") from None
    if owner != name:
        raise UserError(
            f"{stamp.parent} holds results of the config named '{owner}', and this one is named '{name}': work in "
            "another folder (snakemake --directory), rename the task, or remove that folder"
        )


def missing_keys(task: TaskConfig) -> list[str]:
    """Environment variables with the keys of judges that are not set here; jobs of a cluster may have others."""
    judges = [*task.evaluation.judges.values(), task.training.rounds.judge]
    variables = {judge.api_key_env for judge in judges if judge is not None and judge.kind == "endpoint"}
    return sorted(name for name in variables if name and not os.environ.get(name))
