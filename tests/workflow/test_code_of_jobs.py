"""A job depends on the code of its own loss and mask, source and scorer, on no other's, and on all that it runs."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.config import Config
from sparsepo.data import hh_dialogues, planted
from sparsepo.evaluation.frontier import FrontierEvaluator, frontier_evaluator
from sparsepo.evaluation.judges import JUDGES
from sparsepo.evaluation.sandbox import Sandbox, check_sandbox
from sparsepo.evaluation.scorers import SCORERS
from sparsepo.fdpg.trainer import OnPolicyTrainer
from sparsepo.generation.generate import sample
from sparsepo.methods.method import MASKS
from sparsepo.methods.registry import METHODS
from sparsepo.objective import losses
from sparsepo.objective.token_terms import token_terms
from sparsepo.report.figures.style import to_spec
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.pair_objective import PairObjective
from sparsepo.training.preference_trainer import PreferenceTrainer
from sparsepo.training.step_statistics import STATISTICS
from sparsepo.workflow.code_version import CHOSEN_BY, LEFT_OUT, ROOT, SourceTree, choices
from sparsepo.workflow.source_index import Module
from sparsepo.workflow.stages import Stages

SCRIPTS = sorted(path.stem for path in (ROOT / "workflow_scripts").glob("*.py"))
BASE = yaml.safe_load("""
model: {source: scratch, config: {model_type: gpt2}}
data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
sft: {num_train_epochs: 1}
preferences: {source: generated, scorer: {kind: vader}}
methods: {dpo: {beta: "0.1"}}
evaluation: {scorer: {kind: vader}, frontier_prompts: 8}
""")
FILE = {
    "data": {"source": "preferences", "prompts": {"train": 40, "validation": 8, "test": 8}},
    "preferences": {"source": "pairs", "hub": {"id": "x/y"}},
}
ON_PAIRS = [name for name, row in METHODS.items() if row.trainer != "on_policy"]
GRIDS = {name: {"beta": "0.1"} if "beta" in METHODS[name].hyper else {"k_chosen": "0.3"} for name in ON_PAIRS}
LOSSES = {row.loss: getattr(losses, row.loss) for row in METHODS.values() if row.loss}


def stages_of(**tasks):
    """The stages of tasks, each described by what it has instead of BASE."""
    return Stages(Config.model_validate({"name": "all", "tasks": {name: BASE | task for name, task in tasks.items()}}))


def name_of(value):
    return getattr(value, "__name__", "")


def trainings():
    """Name -> (script, settings): a training by each method, and by one method with each of its masks."""
    grids = {"sparsepo_common": {"beta": "0.1", "mask": [*METHODS["sparsepo_common"].mask_choices]}}
    stages = stages_of(methods={"methods": GRIDS} | FILE, masks={"methods": grids} | FILE)
    jobs = {}
    for name in ON_PAIRS:
        stage = "train_round" if METHODS[name].trainer == "rounds" else "train_policy"
        jobs[name] = "train_policy", stages.settings(stage, "methods", stages.first_run("methods", name))
    for mask, run in zip(METHODS["sparsepo_common"].mask_choices, stages.runs("masks", sft=False), strict=True):
        jobs[f"mask {mask}"] = "train_policy", stages.settings("train_policy", "masks", run)
    return jobs


TRAININGS = trainings()
ALL = set(TRAININGS)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    for name in ("src", "workflow_scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


def versions(folder, jobs):
    tree = SourceTree(folder)
    return {name: tree.version(f"workflow_scripts/{script}.py", choices(text)) for name, (script, text) in jobs.items()}


@contextmanager
def rewritten(path, text):
    before = path.read_text()
    path.write_text(text)
    yield
    path.write_text(before)


def changed_jobs(copy, thing, jobs):
    """The jobs whose version changes with the body of a function or class."""
    path = copy / Path(inspect.getsourcefile(inspect.unwrap(thing))).relative_to(ROOT)
    tree = ast.parse(path.read_text())
    (node,) = (node for node in tree.body if getattr(node, "name", None) == thing.__name__)
    node.body.append(ast.parse("changed = 1").body[0])
    before = versions(copy, jobs)
    with rewritten(path, ast.unparse(tree)):
        after = versions(copy, jobs)
    return {name for name in jobs if after[name] != before[name]}


# --- losses, masks and statistics


def chosen(job, setting):
    """What a training's settings choose: its loss, mask or statistic; None where they choose none."""
    return next((value for key, value in choices(TRAININGS[job][1]) if key == setting), None)


def calls(function, other):
    """Whether a loss calls another one, by the names in its byte code."""
    return other.__name__ in function.__code__.co_names


@pytest.mark.parametrize("loss", LOSSES)
def test_a_changed_loss_changes_the_runs_that_use_it_and_no_other(copy, loss):
    same = {name for name, function in LOSSES.items() if function is LOSSES[loss] or calls(function, LOSSES[loss])}
    users = {job for job in ALL if chosen(job, "loss") in same}
    assert users and changed_jobs(copy, LOSSES[loss], TRAININGS) == users


@pytest.mark.parametrize("mask", MASKS)
def test_a_changed_mask_head_changes_the_runs_that_have_it_and_no_other(copy, mask):
    def head(mask):
        return resolve_name(MASKS[mask].head)

    users = {job for job in ALL if (other := chosen(job, "mask")) and issubclass(head(other), head(mask))}
    assert users and changed_jobs(copy, head(mask), TRAININGS) == users


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_changed_statistic_changes_the_runs_that_have_it_and_no_other(copy, statistic):
    users = {job for job in ALL if chosen(job, "statistic") == statistic}
    assert users and changed_jobs(copy, STATISTICS[statistic], TRAININGS) == users


@pytest.mark.parametrize("thing", [token_terms, PairObjective, PreferenceTrainer], ids=name_of)
def test_what_every_training_uses_changes_all_of_them(copy, thing):
    assert changed_jobs(copy, thing, TRAININGS) == ALL


@pytest.mark.parametrize("thing", [OnPolicyTrainer, sample, FrontierEvaluator, to_spec], ids=name_of)
def test_what_no_training_on_pairs_uses_changes_none(copy, thing):
    """None of them measures its frontier, apart from the rounds, which do at their end."""
    assert changed_jobs(copy, thing, TRAININGS) <= {name for name in ON_PAIRS if METHODS[name].trainer == "rounds"}


# --- sources, formats, scorers and judges

PROGRAMS = {
    "data": {"source": "problems", "hub": {"id": "x/y"}, "prompts": {"train": 40, "validation": 8, "test": 8}},
    "preferences": {"source": "executed"},
    "evaluation": {"code": {"suites": ["mbpp"]}},
}
TASKS = {
    "planted": {"training": {"frontier_every": 5}},
    "classifier": {
        "evaluation": BASE["evaluation"] | {"extra_scorers": {"kind": {"kind": "classifier", "model": "m"}}}
    },
    "pairs": FILE | {"evaluation": {"generation": {}, "win_rate": {"kind": "nli", "model": "m"}}},
    "transcripts": FILE | {"preferences": {"source": "transcripts", "hub": {"id": "x/y"}}},
    "programs": PROGRAMS,
    "words": {
        "methods": {"fdpg": {"beta": "0.1"}},
        "preferences": {"source": "generated", "scorer": {"kind": "classifier", "model": "m"}},
    },
}
STAGES = (
    *("prepare_data", "build_preferences", "cache_reference", "train_policy", "train_on_policy", "evaluate_run"),
    "measure_win_rate",
)


def jobs_of_tasks():
    """(stage, task) -> (script, settings), of the first run of each task."""
    stages, jobs = stages_of(**TASKS), {}
    for task, section in stages.config.tasks.items():
        run = stages.runs(task, sft=False)[0]
        missing = {"train_policy" if METHODS[run.split("/")[0]].trainer == "on_policy" else "train_on_policy"}
        missing |= set() if section.evaluation.win_rate else {"measure_win_rate"}
        for stage in set(STAGES) - missing:
            jobs[stage, task] = stage, stages.settings(stage, task, run)
    return jobs


SEEN = [  # changed function or class, stage -> tasks that see it
    (planted.reviews, {"prepare_data": {"planted", "classifier", "words"}}),
    (hh_dialogues.transcript_pairs, {"prepare_data": {"transcripts"}, "build_preferences": {"transcripts"}}),
    (
        SCORERS["classifier"],
        {"evaluate_run": {"classifier"}, "train_on_policy": {"words"}, "build_preferences": {"words"}},
    ),
    (JUDGES["nli"], {"measure_win_rate": {"pairs"}}),
    (JUDGES["endpoint"], {}),
    (check_sandbox, {"prepare_data": {"programs"}}),
    (Sandbox, {"build_preferences": {"programs"}}),
    (frontier_evaluator, {"train_policy": {"planted"}}),
    (LOSSES["dpo"], {"train_policy": set(TASKS) - {"words"}, "evaluate_run": set(TASKS)}),
    (OnPolicyTrainer, {"train_on_policy": {"words"}}),
    (to_spec, {}),
]


@pytest.mark.parametrize(("thing", "seen"), SEEN, ids=name_of)
def test_what_one_source_scorer_or_stage_uses_is_seen_by_the_jobs_that_use_it(copy, thing, seen):
    changed = changed_jobs(copy, thing, jobs_of_tasks())
    assert changed == {(stage, task) for stage, tasks in seen.items() for task in tasks}


# --- what changes nothing


def functions_changed(text):
    """A source in which each top-level function and class has a statement more."""
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.body.append(ast.parse("changed = 1").body[0])
    return ast.unparse(tree)


@pytest.mark.parametrize("room", ["runtime", "config", "monitor", "workflow"])
def test_what_starts_watches_and_plans_jobs_changes_no_version(copy, room):
    jobs = TRAININGS | {script: (script, "{}") for script in SCRIPTS}
    before = versions(copy, jobs)
    files = {path: path.read_text() for path in (copy / "src/sparsepo" / room).rglob("*.py")}
    for path, text in files.items():
        path.write_text(functions_changed(text))
    after = versions(copy, jobs)
    for path, text in files.items():
        path.write_text(text)
    assert len(files) > 1 and after == before


class Reworder(ast.NodeTransformer):
    """Other words in each docstring, error and printed line."""

    def visit_Expr(self, node):
        is_text = isinstance(node.value, ast.Constant)
        is_line = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "print"
        return self.reworded(node) if is_text or is_line else self.generic_visit(node)

    def visit_Raise(self, node):
        return self.reworded(node)

    def reworded(self, node):
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                part.value = "other words"
        return node


def test_other_words_in_docstrings_errors_and_printed_lines_change_no_version(copy, tmp_path):
    count = 0
    for folder in ("src", "workflow_scripts"):
        for path in (copy / folder).rglob("*.py"):
            target = tmp_path / path.relative_to(copy)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(ast.unparse(Reworder().visit(ast.parse(path.read_text()))))
            count += target.read_text().count("other words")
    jobs = TRAININGS | {script: (script, "{}") for script in SCRIPTS}
    assert count > 1000 and versions(tmp_path, jobs) == versions(copy, jobs)


# --- what a version must not miss


def not_counted(called, script, settings):
    """Of the functions that a job called, those that its version leaves out, but for LEFT_OUT."""
    counted = set(SourceTree().counted(script, choices(settings)))
    counted |= {(f"workflow_scripts.{module}", function) for module, function in counted}  # by other scripts
    places = {(name.removeprefix("src/").removesuffix(".py").replace("/", "."), function) for name, function in called}
    return {
        f"{module}.{function}"
        for module, function in places - counted
        if function[0] != "<" and not f"{module}.".startswith(LEFT_OUT)
    }


def called_by(work):
    """(file, name) of the top-level functions of the package, and classes with a method, that are called.

    The body of a class, which runs where its module is imported first, is no call.
    """
    called = set()

    def note(frame, event, argument):
        is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED
        if is_function and frame.f_code.co_filename.startswith(f"{ROOT}/src/"):
            called.add((frame.f_code.co_filename.removeprefix(f"{ROOT}/"), frame.f_code.co_qualname.split(".")[0]))

    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(None)
    return called


def models_and_pairs():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=48, vocab_size=60)
    policy, reference = (GPT2LMHeadModel(config).eval() for _ in range(2))
    pair = {"prompt": [3, 4], "chosen": [5, 6, 7], "rejected": [8, 9]}
    given = {"values": ([0.5, 1.0, 0.25], [1.0, 2.0]), "scores": (1.0, 0.5)}
    return policy, reference, [pair | given, pair | given | {"prompt": [4, 3]}]


@pytest.mark.parametrize("method", ON_PAIRS)
def test_all_that_a_method_runs_to_look_into_pairs_is_counted_for_its_trainings(method):
    called = called_by(lambda: inspect_pairs(*models_and_pairs(), method))
    called = {place for place in called if not place[0].endswith("training/inspection.py")}
    assert len(called) > 10
    assert not not_counted(called, "workflow_scripts/train_policy.py", TRAININGS[method][1])


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_all_that_the_jobs_of_every_stage_run_is_counted(tmp_path):
    """Seen by running them: the version that a rule gives a job counts each function that the job calls."""
    for name in ("Snakefile", "rules", "workflow_scripts", "src", "envs", "tests/fixtures"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, tmp_path / name)
    shutil.copy2(Path(__file__).with_name("executed_functions.py"), tmp_path / "src" / "sitecustomize.py")
    notes = tmp_path / "notes"
    notes.mkdir()
    options = ["--cores", "2", "--configfile", "tests/fixtures/every_stage.yaml"]
    environment = os.environ | {"NOTE_FUNCTIONS": str(notes)}
    for target in ("together", "all"):
        command = [sys.executable, "-m", "snakemake", target, *options]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:]
    missing, scripts, versions = {}, set(), []
    for path in notes.iterdir():
        job = json.loads(path.read_text())
        script, *arguments = job["arguments"]
        options = dict(zip(arguments, arguments[1:], strict=False))
        settings = options.get("--settings", "{}")
        if options.get("--kind", "").startswith("weights~"):
            settings = f'[{settings}, {{"mask": "activations"}}]'
        script = f"workflow_scripts/{Path(script).name}"
        scripts.add(Path(script).stem)
        if "--code-version" in options:
            versions.append((options["--code-version"], SourceTree().version(script, choices(settings))))
        if functions := not_counted(map(tuple, job["called"]), script, settings):
            missing.setdefault(script, set()).update(functions)
    assert scripts == set(SCRIPTS)
    assert not missing
    assert versions and all(given == own for given, own in versions)


def sources():
    """(module, tree) of every file that may count."""
    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "workflow_scripts").glob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("src/").replace("/", ".")
        if not f"{module}.".startswith((*LEFT_OUT, "sparsepo.workflow", "sparsepo.monitor")):
            yield module, ast.parse(path.read_text())


def test_what_settings_choose_exists():
    modules = {module: Module(ast.unparse(tree), module).statements for module, tree in sources()}
    names = {f"{module}.{name}" for module, statements in modules.items() for name in ("*", *statements)}
    assert not set(CHOSEN_BY) - names


def test_a_table_whose_rows_are_chosen_is_only_looked_up_by_name():
    """The other rows are not counted, so no job may go through them."""
    tables = {place.rpartition(".")[2] for place in CHOSEN_BY if place.rpartition(".")[2].isupper()}
    for module, tree in sources():
        looked_up = {node.value for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
        looked_up |= {other for node in ast.walk(tree) if isinstance(node, ast.Compare) for other in node.comparators}
        looked_up |= {part for node in ast.walk(tree) if isinstance(node, ast.Raise) for part in ast.walk(node)}
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        looked_up |= {part for call in calls if getattr(call.func, "attr", "") == "join" for part in call.args}
        loads = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
        others = {node.id for node in loads if node.id in tables and node not in looked_up}
        # What the table of methods makes of MASKS is in its rows, which settings hold by value; no job imports a name
        # from the package itself; colours of figures follow the order of the table, at whose end a new row stands;
        # what plugins add has versions of its own.
        allowed = (
            "sparsepo.methods.registry",
            "sparsepo.methods.plugins",
            "sparsepo.__init__",
            "sparsepo.report.figures.style",
        )
        assert not others or module in allowed, f"{module}: {others}"


def test_no_definition_is_reached_without_its_name():
    hidden = r"\b(globals|locals|import_module|__import__|__subclasses__|__init_subclass__)\b|(?<![.\w])(eval|exec)\("
    modules = {module for module, tree in sources() if re.search(hidden, ast.unparse(tree))}
    assert modules == {"sparsepo.__init__", "sparsepo.evaluation.sandbox_worker"}  # the second counts whole
