import gc
import inspect
import os
import re
import socket
import sys
import time
from pathlib import Path
from shlex import quote

HERE = Path(workflow.current_basedir).parent
if set("{}").intersection(str(HERE)):
    sys.exit(f"{HERE}: Snakemake takes braces in a path for wildcards; move or rename the folder of the workflow")
sys.path.insert(0, str(HERE / "src"))

# A plan is made of many objects that stay: Python's usual search for garbage among them takes a twelfth of the time.
gc.set_threshold(100_000)

from sparsepo.methods.plugins import VARIABLE as PLUGINS
from sparsepo.monitor.plan_file import note_end, write_plan
from sparsepo.monitor.tracking import start_follower
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.job_server import start_server
from sparsepo.workflow.registry import STAGES as REGISTRY
from sparsepo.workflow.stages import Stages

# A config that the user names replaces the default as a whole, where Snakemake would merge the two;
# `--config key=value` then overrides single values (tasks__planted__seeds=[0,1]). As a module of another workflow
# the config is the mapping that the module is given.
if workflow.modifier.parent_modifier is None:
    CONFIG_FILES = workflow.config_settings.configfiles or [HERE / "config.yaml"]
    GIVEN = workflow.config_settings.config
else:
    CONFIG_FILES, GIVEN = [], config
try:
    STAGES = Stages.read(CONFIG_FILES, GIVEN)
except UserError as error:
    sys.exit(str(error))

if workflow.storage_settings.default_storage_provider:
    sys.exit("--default-storage-provider would not send weights and checkpoints: leave it out, see docs/scale.md")

# Of a module with a `prefix`; to inputs and outputs Snakemake applies it itself.
PATHS = workflow.modifier.path_modifier
PROMPTS = {split: f"results/{{task}}/prompts/{split}.jsonl" for split in ("train", "validation", "test")}
SFT = "results/{task}/sft"
START = "results/{task}/start"
PREFERENCES = "results/{task}/preferences"
REFERENCE = "results/{task}/reference/{kind}"
ORACLE = "results/{task}/oracles/{oracle}"
RUN = "results/{task}/runs/{run}"
ROUND = "results/{task}/rounds/{run}/iteration~{iteration}"
SAMPLES = "results/{task}/samples/{run}.jsonl"
GENERATIONS = "results/{task}/generations/{run}.jsonl"
PROGRAMS = "results/{task}/programs/{run}.jsonl"
SCORES = "results/{task}/scores/{run}.json"
TOKENS = "results/{task}/tokens/{run}.jsonl"
TABLES = [f"results/tables/{{task}}{kind}" for kind in (".csv", ".md", ".tex", "_differences.csv")]
GRID_TABLES = [f"results/tables/{{task}}_grid.{kind}" for kind in ("csv", "md", "tex")]
MATCHED_KL_TABLES = [f"results/tables/{{task}}_matched_kl.{kind}" for kind in ("csv", "md", "tex")]
AUC_TABLES = [f"results/tables/{{task}}_auc.{kind}" for kind in ("csv", "md", "tex")]
PAGE = "results/report/index.html"


wildcard_constraints:
    task="|".join(map(re.escape, STAGES.tasks)),
    run=STAGES.run_pattern,
    iteration=r"[1-9]\d*",
    oracle=STAGES.oracle_pattern,
    kind=r"states|logps|weights~[a-z]+~[a-z+]+",
    method=r"[a-z0-9_]+",


# All commands start with `eval "$SPARSEPO_JOB"`: a `shell.prefix` would also be that of a workflow around this
# one. Outside conda and Apptainer the jobs use the Python that runs Snakemake, so no environment has to be activated. An empty
# IFS and -f keep $SCRIPTS one word, and the path that it is. What a launcher set for the shell that started Snakemake is not
# for its jobs: they would wait for others. Threads are those of the stage (OMP_NUM_THREADS, which libraries read where their own
# variable is not set), as those that Snakemake sets follow its --cores, and results their number.
# SPARSEPO_SNAKEMAKE, SPARSEPO_LOG: see sparsepo.runtime.launch. SPARSEPO_JOB_SERVER: set on start.
# PYTHONPATH keeps what the user has in it, where functions of a config may be.
PYTHON_PATH = os.pathsep.join(filter(None, [str(HERE / "src"), os.environ.get("PYTHONPATH")]))
PATH_OF_PYTHON = f" PATH={quote(str(Path(sys.executable).parent))}:$PATH"
DEPLOYMENT = {method.name for method in workflow.deployment_settings.deployment_method}
HAS_OWN_PYTHON = bool(DEPLOYMENT & {"CONDA", "APPTAINER"})
IMAGE = HERE / "envs" / "sparsepo.sif"
if "APPTAINER" in DEPLOYMENT and not IMAGE.exists():
    sys.exit(f"{IMAGE}: no such file; --sdm apptainer needs this image, and envs/Dockerfile says how to make it")
JOB = (
    "set -feuo pipefail; IFS=; unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT SPARSEPO_LOG"
    " MKL_NUM_THREADS OPENBLAS_NUM_THREADS GOTO_NUM_THREADS NUMEXPR_NUM_THREADS VECLIB_MAXIMUM_THREADS; export PYTHONUTF8=1 PYTHONUNBUFFERED=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false TQDM_DISABLE=1"
    f" SPARSEPO_JOB_SERVER= SPARSEPO_SNAKEMAKE={os.getpid()} PYTHONPATH={quote(PYTHON_PATH)} SCRIPTS={quote(str(HERE / 'workflow_scripts'))}{'' if HAS_OWN_PYTHON else PATH_OF_PYTHON}"
)
MODULE_PLUGINS = [*filter(None, os.environ.get(PLUGINS, "").split(os.pathsep)), *STAGES.config.plugins]
os.environ.update({"SPARSEPO_JOB": JOB, PLUGINS: os.pathsep.join(dict.fromkeys(MODULE_PLUGINS))})


# --- what the rules of all stages share (see rules/jobs.smk)


def with_signature(function):
    """The function with its signature stored on it, which Snakemake otherwise computes several times for each job."""
    function.__signature__ = inspect.signature(function)
    return function


def of_job(function, *first):
    """A function of wildcards, which become keyword arguments of this one."""
    return with_signature(lambda wildcards: function(*first, **wildcards))


def stage_params(stage, **given):
    """The params of the rule of a stage.

    script, settings, code_version, launcher, threads: a job runs again when one of them has changed.
    options: those of its script, in this order
        --NAME FILE...  each named input and output; of a model (run.json) or a fitted scorer the folder
        --out PATH      the unnamed output, or the folder of several
        --NAME VALUE    each of `given`, a text with wildcards or a function of wildcards
    Unnamed inputs are not passed: they only have to be there.
    """

    def options(wildcards, input, output):
        named_outputs = dict(output.items())
        values = {**dict(input.items()), **named_outputs}
        unnamed = set(output).difference(*map(as_list, named_outputs.values()))
        if unnamed:
            values["out"] = min(unnamed) if len(unnamed) == 1 else os.path.commonpath(unnamed)
        for name, value in given.items():
            values[name] = value(wildcards) if callable(value) else value.format(**wildcards)
            if Path(str(values[name])).parts[:1] == ("results",):
                values[name] = PATHS.replace_prefix(values[name])
        return " ".join(option(name, value) for name, value in values.items() if value)

    return {
        "script": STAGES.script(stage),
        "settings": of_job(STAGES.settings_arguments, stage),
        "code_version": of_job(STAGES.code_version, stage),
        "launcher": of_job(STAGES.launcher, stage),
        "threads": of_job(STAGES.threads, stage),
        "options": with_signature(options),
    }


def as_list(value):
    return [value] if isinstance(value, str) else list(value)


def option(name, value):
    """An option of a script with its value or values, for a shell."""
    if isinstance(value, str):
        folder, file = os.path.split(value)
        value = folder if file in ("run.json", "report.json") else value
    return " ".join([f"--{name.replace('_', '-')}", *map(quote, as_list(value))])


def stage_of(rulename):
    """The stage of a rule, whose name has a prefix in a workflow that uses this one as a module."""
    return max((stage for stage in REGISTRY if stage in rulename), key=len)


threads_of = with_signature(lambda wildcards, rulename: STAGES.threads(stage_of(rulename), **wildcards))
num_gpus = with_signature(lambda wildcards, rulename: STAGES.num_processes(stage_of(rulename), **wildcards))


def slurm_resources():
    """Resources of jobs on several machines, for Snakemake's executor for Slurm; a job on one machine has none of them."""

    def resource(name):
        return with_signature(
            lambda wildcards, rulename: STAGES.slurm_resources(stage_of(rulename), **wildcards).get(name)
        )

    names = ("nodes", "tasks", "tasks_per_gpu", "gres", "mpi") if STAGES.sections_on_several_machines() else ()
    return {name: resource(name) for name in names}


# Twice the memory with each attempt, as a job that was killed for memory needs more; and as many minutes more as at first.
mem_mb = with_signature(
    lambda wildcards, attempt, rulename: STAGES.resources(stage_of(rulename), **wildcards)["mem_mb"]
    * 2 ** (attempt - 1)
)
runtime = with_signature(
    lambda wildcards, attempt, rulename: STAGES.resources(stage_of(rulename), **wildcards)["runtime"] * attempt
)
resolved_config = of_job(STAGES.resolved_config)  # for the record of a run


# --- input of rules


fitted_scorer = of_job(lambda **job: next(iter(STAGES.fitted_scorer(**job)), []))
reference_caches = of_job(
    lambda **job: [
        f"{REFERENCE}/index.json".format(task=job["task"], kind=kind) for kind in STAGES.reference_caches(**job)
    ]
)
oracle_start = of_job(lambda **job: f"{STAGES.oracle_start(**job)}/run.json")
opponents = of_job(lambda **job: [GENERATIONS.format(task=job["task"], run=run) for run in STAGES.opponents(**job)])
scoring_model = of_job(lambda **job: f"{STAGES.scoring_models(**job)[0]}/run.json")
scoring_base = of_job(lambda **job: next((f"{folder}/run.json" for folder in STAGES.scoring_models(**job)[1:]), []))


@with_signature
def policy_weights(wildcards):
    """The weights of a run, which for the run `sft` are those of the reference."""
    folder = SFT if wildcards.run == "sft" else RUN
    return f"{folder}/run.json".format(**wildcards)


@with_signature
def other_start(wildcards):
    """The weights that policies start from, if not from those of the reference."""
    has_other = STAGES.config.tasks[wildcards.task].policy is not None
    return f"{START}/run.json".format(**wildcards) if has_other else []


def preference_pairs(split):
    """A function of wildcards: the pairs of a run, with the scores of the oracle that it reads, if any."""
    return of_job(STAGES.preference_file, split)


def selecting_oracles(name):
    """A function of wildcards: a file of each oracle whose scores select tokens in some run."""
    return lambda wildcards: expand(
        f"{ORACLE}/{name}", task=wildcards.task, oracle=STAGES.selecting_oracles(**wildcards)
    )


def previous_policy(wildcards):
    """The weights that a round samples and starts from: those of the round before, in the first round those of SFT."""
    if wildcards.iteration == "1":
        return f"{SFT}/run.json".format(**wildcards)
    previous = {**wildcards, "iteration": int(wildcards.iteration) - 1}
    return f"{ROUND}/policy/run.json".format(**previous)


def all_rounds(wildcards):
    run, iterations = STAGES.rounds(**wildcards)
    return expand(f"{ROUND}/policy/run.json", task=wildcards.task, run=run, iteration=iterations)


def training_outputs(folder, *others):
    """What every training writes. Its weights lie beside, of a whole model or of an adapter, and `run.json`, the record
    that is written after them, stands for them in all rules."""
    return [f"{folder}/{name}" for name in ("dynamics.jsonl", "run.json", *others)]


def all_runs(pattern, sft=True):
    """A function of wildcards: a file of each run of a task."""
    return lambda wildcards: every_run(pattern, sft, tasks=[wildcards.task])


def figure(name):
    """A figure of a task as SVG and PNG, and its caption in Snakemake's own report."""
    files = expand("results/figures/{{task}}/{name}.{kind}", name=name, kind=["svg", "png"])
    return report(files, caption=f"report/{Path(name).parts[0]}.rst", category="{task}")


# --- files of all tasks


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


def every_together():
    """What the jobs leave that train several runs."""
    runs = [(task, run) for task in STAGES.tasks for run in STAGES.first_runs_together(task)]
    return [f"{RUN}/together.json".format(task=task, run=run) for task, run in runs]


def every_table():
    """The tables of each task; rewards at the same KL only with a reward, planted tokens only where the data have some."""
    some = every_task(MATCHED_KL_TABLES, STAGES.rewarded_tasks) + every_task(AUC_TABLES, STAGES.planted_tasks)
    return every_task(TABLES + GRID_TABLES) + some


def every_measure(tasks=STAGES.tasks):
    """What is measured of the runs of each task, measure by measure."""
    return [
        path
        for task in tasks
        for measure in STAGES.measures(task)
        for path in every_run(f"results/{{task}}/{measure}/{{run}}.json", tasks=[task])
    ]


def every_sampled(kind):
    """The samples, generations or programs of each task that has them."""
    tasks = [task for task in STAGES.tasks if kind in STAGES.sampled(task)]
    return every_run(f"results/{{task}}/{kind}/{{run}}.jsonl", tasks=tasks)


def every_figure():
    return [
        path
        for task in STAGES.tasks
        for name in STAGES.figures(task)
        for kind in ("svg", "png")
        for path in every_task([f"results/figures/{{task}}/{name}.{kind}"], tasks=[task])
    ]


# --- the plan, for the monitor


def planned_jobs():
    """(stage, task, item, whether it is made now) of every job of a task; an item is a run, a kind of cache, an oracle."""
    for job in workflow.dag.jobs:
        wildcards = dict(job.wildcards.items())
        if "task" in wildcards:
            item = next((wildcards[key] for key in ("run", "kind", "oracle") if key in wildcards), "")
            if "iteration" in wildcards:
                item = f"{item}/iteration~{wildcards['iteration']}"
            yield stage_of(job.rule.name), wildcards["task"], item, workflow.dag.needrun(job)


def is_main_run():
    """Whether this Snakemake runs the sweep: not a job of a cluster, which is a Snakemake too, and not `--touch`."""
    return workflow.is_main_process and not workflow.touch


onstart:
    if is_main_run():
        sections = STAGES.sections_on_several_machines()
        if sections and workflow.local_exec and "SLURM_JOB_ID" not in os.environ:
            sys.exit(
                f"{sections[0]}.num_machines needs Slurm: start Snakemake with --workflow-profile profiles/slurm"
            )
        start = {"process": os.getpid(), "host": socket.gethostname(), "local": workflow.local_exec}
        write_plan(Path("results"), STAGES.plan(planned_jobs(), started=time.time(), **start))
        if workflow.local_exec and not HAS_OWN_PYTHON:
            os.environ.update({"SPARSEPO_JOB": JOB + start_server()})
        if STAGES.config.tracking is not None:
            start_follower(CONFIG_FILES, workflow.config_settings.config, PYTHON_PATH)


onsuccess:
    if is_main_run():
        note_end(Path("results"), time.time())


onerror:
    if is_main_run():
        note_end(Path("results"), time.time())
