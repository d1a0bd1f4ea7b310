import gc
import inspect
import os
import re
import socket
import sys
import time
from functools import cache
from pathlib import Path
from shlex import quote

HERE = Path(workflow.basedir)
sys.path.insert(0, str(HERE / "src"))

# Of the many objects that a plan is made of, hardly one is garbage: as often as Python does by itself, looking for it
# takes a twelfth of the time.
gc.set_threshold(100_000)

from sparsepo.runtime.errors import UserError
from sparsepo.workflow.stages import Stages
from sparsepo.monitor.plan_file import note_end, write_plan

# A config that the user names replaces the default whole, where Snakemake would merge the two;
# `--config key=value` then overrides single values (tasks__planted__seeds=[0,1]).
try:
    STAGES = Stages.read(
        workflow.config_settings.configfiles or [HERE / "config.yaml"],
        workflow.config_settings.config,
    )
except UserError as error:
    sys.exit(str(error))

RESOLVED = cache(STAGES.resolved)
PROMPTS = "results/{task}/prompts/{split}.jsonl"
SFT = "results/{task}/sft"
PREFERENCES = "results/{task}/preferences"
REFERENCE = "results/{task}/reference/{kind}"
ORACLE = "results/{task}/oracles/{oracle}"
RUN = "results/{task}/runs/{run}"
ROUND = "results/{task}/rounds/{run}/iteration~{iteration}"
SAMPLES = "results/{task}/samples/{run}.jsonl"
SCORES = "results/{task}/scores/{run}.json"
TOKENS = "results/{task}/tokens/{run}.jsonl"
GENERATIONS = "results/{task}/generations/{run}.jsonl"
PROGRAMS = "results/{task}/programs/{run}.jsonl"
MEASURES = "results/{task}/{part}/{run}.json"
TABLES = [f"results/tables/{{task}}{kind}" for kind in (".csv", ".md", ".tex", "_differences.csv")]
PAGE = "results/report/index.html"
GRIDS = [f"results/tables/{{task}}_grid.{kind}" for kind in ("csv", "md", "tex")]


wildcard_constraints:
    task="|".join(map(re.escape, STAGES.tasks)),
    split="train|validation|test",
    part="scores|summaries|wins|benchmarks|code",
    run="|".join(STAGES.run_patterns),
    oracle=r"[a-z0-9_]+",
    kind=r"states|logps|weights~[a-z]+~[a-z+]+",
    method=r"[a-z0-9_]+",


# Our prefix replaces Snakemake's own, so strict mode is repeated. Outside conda the jobs use the
# Python that runs Snakemake, so no environment has to be activated. An empty IFS keeps $SCRIPTS one word.
# SPARSEPO_SNAKEMAKE: see sparsepo.runtime.entry_point.run_main.
OWN_PYTHON = f" PATH={quote(str(Path(sys.executable).parent))}:$PATH"
IN_CONDA = any("conda" in str(method).lower() for method in workflow.deployment_settings.deployment_method)
shell.prefix(
    "set -euo pipefail; IFS=; export PYTHONUNBUFFERED=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false TQDM_DISABLE=1"
    f" SPARSEPO_SNAKEMAKE={os.getpid()} PYTHONPATH={quote(str(HERE / 'src'))} SCRIPTS={quote(str(HERE / 'workflow_scripts'))}{'' if IN_CONDA else OWN_PYTHON}; "
)


def figures():
    """Every figure of every task."""
    return [
        path
        for task in STAGES.tasks
        for figure in STAGES.figures(task)
        for kind in ("svg", "png")
        for path in every_task([f"results/figures/{{task}}/{figure}.{kind}"], tasks=[task])
    ]


def every_task(patterns, tasks=STAGES.tasks):
    """Expand each pattern over the tasks of the config, and over the methods of each."""
    return [
        path
        for task in tasks
        for path in dict.fromkeys(expand(patterns, task=task, method=STAGES.config.tasks[task].methods))
    ]


def every_run(pattern, sft=True, tasks=STAGES.tasks):
    """Expand a pattern over the runs of each task, the SFT model first unless left out."""
    return [path for task in tasks for path in expand(pattern, task=task, run=STAGES.runs(task, sft))]


def every_measure(task):
    """The files of measures of the runs of a task, part by part."""
    parts = ["scores", *STAGES.parts(task)]
    return [path for part in parts for path in every_run(MEASURES.replace("{part}", part), tasks=[task])]


def every_sampled(pattern):
    """The files of samples, generations or programs that the tasks ask for."""
    kind = Path(pattern).parts[2]
    return [path for task in STAGES.tasks if kind in STAGES.sampled(task) for path in every_run(pattern, tasks=[task])]


def signed(function):
    """A function with its signature written on it, where Snakemake, which asks for it several times a job, finds it."""
    function.__signature__ = inspect.signature(function)
    return function


@signed
def fitted(wildcards):
    """The scorer that the pipeline fits, for the jobs that score."""
    return STAGES.fitted(wildcards.task)


@signed
def policy_of(wildcards):
    """The weights of a run, which for the run `sft` are the reference's own."""
    folder = SFT if wildcards.run == "sft" else RUN
    return f"{folder}/model.safetensors".format(**wildcards)


@signed
def cache_of(wildcards):
    """What a run reads of the reference instead of running it."""
    kinds = STAGES.cached(wildcards.task, wildcards.run)
    return [f"{REFERENCE}/index.json".format(task=wildcards.task, kind=kind) for kind in kinds]


def scored(split):
    """A function of wildcards: the pairs of a run, with the scores of the oracle that it reads if it reads one."""
    return signed(lambda wildcards: STAGES.pairs(split, **wildcards))


def settings(stage):
    """A function of wildcards: the resolved settings that this stage reads, as JSON."""
    return signed(lambda wildcards: STAGES.settings(stage, **wildcards))


@signed
def config_of(wildcards, input):
    """The config of a task, for the record of a run: as it takes `input`, Snakemake does not compare it."""
    return RESOLVED(wildcards.task)


def code(stage, script=""):
    """A function of wildcards: the version of the code that a job of this stage, with a script of its name or this one, uses."""
    return signed(lambda wildcards: STAGES.code(stage, script=script, **wildcards))


def asks(stage, what):
    """A function of wildcards and attempt: memory or minutes of a job; minutes grow with each attempt."""
    return signed(
        lambda wildcards, attempt: STAGES.resources(stage=stage, **wildcards)[what] * attempt ** (what == "runtime")
    )


def processes(stage):
    """A function of wildcards: how many processes, each with a GPU, a job of `sft` or `train` takes."""
    return signed(lambda wildcards: STAGES.processes(wildcards.task, stage))


def python(stage):
    """A function of wildcards: what starts the script of `sft` or `train`, on one process or on several."""
    return signed(lambda wildcards: STAGES.python(wildcards.task, stage))


def jobs():
    """(rule, task, run or kind or oracle, whether it is to be made now) of every job that belongs to a task."""
    for job in workflow.dag.jobs:
        named = dict(job.wildcards.items())
        if "task" in named:
            item = next((named[key] for key in ("run", "kind", "oracle") if key in named), "")
            if "iteration" in named:
                item = str(Path(item, f"iteration~{named['iteration']}"))
            yield job.rule.name, named["task"], item, workflow.dag.needrun(job)


def plans():
    """Whether this is the Snakemake of a sweep: a job of a cluster is a Snakemake too, and `--touch` makes nothing."""
    return workflow.is_main_process and not workflow.touch


onstart:
    if plans():
        start = {"process": os.getpid(), "host": socket.gethostname(), "local": workflow.local_exec}
        write_plan(Path("results"), STAGES.plan(jobs(), started=time.time(), **start))


onsuccess:
    if plans():
        note_end(Path("results"), time.time())


onerror:
    if plans():
        note_end(Path("results"), time.time())
