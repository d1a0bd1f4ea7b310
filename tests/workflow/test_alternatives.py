"""A run depends on the code of its own loss and mask, source and scorer, and on no other's."""

import ast
import shutil
import sys

import pytest
import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.config import Config
from sparsepo.methods.method import MASKS
from sparsepo.methods.registry import METHODS
from sparsepo.training.inspection import inspect_pairs
from sparsepo.workflow.code_version import ALTERNATIVES, ROOT, Tree
from sparsepo.workflow.source_index import read_module

BASE = yaml.safe_load("""
name: all
tasks:
  task:
    model: {source: scratch, config: {model_type: gpt2}}
    data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
    sft: {num_train_epochs: 1}
    preferences: {source: generated, scorer: {kind: vader}}
    methods: {}
    evaluation: {scorer: {kind: vader}, frontier_prompts: 8}
""")
FILE = {"source": "preferences", "prompts": {"train": 40, "validation": 8, "test": 8}}
HEADS = tuple(mask for mask in MASKS if mask != "activations")
WITH_LOSS = [name for name, row in METHODS.items() if row.loss is not None]
POINTS = {name: ("beta", "0.1") if "beta" in METHODS[name].hyper else ("k_chosen", "0.3") for name in WITH_LOSS}
METHOD_RUNS = {name: f"{name}/{'~'.join(POINTS[name])}/seed~0" for name in WITH_LOSS}
HEAD_RUNS = {f"head {head}": f"sparsepo_common/beta~0.1-mask~{head}/seed~0" for head in HEADS}
RUNS = METHOD_RUNS | HEAD_RUNS
ALL = set(RUNS)
LAYERS = {"sparsepo_common", "sparsepo_independent", "sparsepo_reward_only", "sparsepo_kl_only"}
SPARSE = LAYERS | {"mapo"} | set(HEAD_RUNS)
OF_LAYERS = LAYERS | {f"head {head}" for head in HEADS if head.endswith("layers")}
OF_LAST = {f"head {head}" for head in HEADS if head.endswith("last")}

USERS = {
    "losses": {
        **{
            METHODS[one].loss: {name for name in WITH_LOSS if METHODS[name].loss == METHODS[one].loss}
            for one in WITH_LOSS
        },
        "simpo": {"simpo", "sepo"},
        "_log_odds": {"orpo"},
        **dict.fromkeys(("sparsepo", "_sparse_reward_paper", "_sparse_reward_released"), SPARSE),
    },
    "masks": {
        **dict.fromkeys("MaskInputs State MaskHead LearnedHead Masks build_masks _straight_through".split(), ALL),
        "LayerHead": OF_LAYERS,
        "LastHead": OF_LAST,
        **dict.fromkeys(("_projection", "_linears", "_start", "_between", "_scale_of"), OF_LAYERS | OF_LAST),
        **dict.fromkeys(("ActivationHead", "_zscore", "_minmax", "_extremes"), {"mapo"}),
        "GivenHead": {"head given"},
        "SelectedHead": {"sepo", "rho", "head selected", "head excess"},
        "ExcessHead": {"rho", "head excess"},
        "highest": {"sepo", "rho", "head selected", "head excess"},
        "_brought": {"sepo", "rho", "head given", "head selected", "head excess"},
        "RandomHead": {"head random"},
        "UniformHead": {"head uniform"},
    },
}
DEFINITIONS = ast.FunctionDef | ast.ClassDef


def task_of(**changed):
    methods = {name: {parameter: [value]} for name, (parameter, value) in POINTS.items()}
    methods |= {"fdpg": {"beta": ["0.1"]}, "fdpg_feature": {"target_mean": "1"}}
    methods["sparsepo_common"]["mask"] = [*HEADS]
    task = BASE["tasks"]["task"] | {"methods": methods} | changed
    return Config.model_validate({"name": "all", "tasks": {"task": task}}).tasks["task"]


PAIRS = {"source": "pairs", "hub": {"id": "x/y"}}
TASK = task_of(data=FILE, preferences=PAIRS)


def rows_of(run, stage="train"):
    """The rows that a run uses; that of a method without a head in its grid has the default head."""
    if run == METHOD_RUNS["sparsepo_common"]:
        run = HEAD_RUNS["head layers"]
    return ALTERNATIVES[stage](TASK, run, "")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    for name in ("src", "workflow_scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


def versions(copy, stage="train"):
    """Of every run, by name; runs that use the same rows have the same one."""
    tree, known, found = Tree(copy), {}, {}
    for name, run in RUNS.items():
        rows = rows_of(run, stage)
        key = str(rows)
        known[key] = known.get(key) or tree.version(f"workflow_scripts/{stage}.py", rows)
        found[name] = known[key]
    return found


def definitions(path):
    return [node.name for node in ast.parse(path.read_text()).body if isinstance(node, DEFINITIONS)]


def with_a_line_more(text, name):
    """The source with a first line more in the body of a top-level function or class."""
    tree = ast.parse(text)
    node = next(node for node in tree.body if isinstance(node, DEFINITIONS) and node.name == name)
    node.body.insert(0, ast.parse("changed = 1").body[0])
    return ast.unparse(tree)


def users_of(copy, module, name, before):
    """The runs whose version changes with the body of a definition."""
    path = copy / f"src/sparsepo/objective/{module}.py"
    text = path.read_text()
    path.write_text(with_a_line_more(text, name))
    after = versions(copy)
    path.write_text(text)
    return {run for run in RUNS if after[run] != before[run]}


@pytest.mark.parametrize("module", USERS)
def test_a_changed_body_of_a_loss_or_mask_changes_the_runs_that_use_it_and_no_other(copy, module):
    before = versions(copy)
    names = definitions(copy / f"src/sparsepo/objective/{module}.py")
    assert {name: users_of(copy, module, name, before) for name in names} == USERS[module]


@pytest.mark.parametrize("method", [name for name in WITH_LOSS if METHODS[name].trainer == "pairs"])
def test_what_a_method_executes_is_among_what_its_version_counts(method):
    """Seen by running it: every function of losses.py and masks.py that looking into a pair enters, calibration too."""
    executed = functions_entered(lambda: inspect_pairs(*models_and_pairs(), method))
    assert METHODS[method].loss in executed["losses"] and bool(executed["masks"]) == (
        METHODS[method].mask({}) != "none"
    )
    for module, names in executed.items():
        unseen = {name for name in names if method not in USERS[module][name]}
        assert not unseen, f"{module}.py: {unseen} run for {method} and are not counted"


def functions_entered(work):
    """Module -> names of its top-level functions and classes whose code ran."""
    entered = {"losses": set(), "masks": set()}
    places = {str(ROOT / f"src/sparsepo/objective/{name}.py"): name for name in entered}

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename in places:
            entered[places[frame.f_code.co_filename]].add(frame.f_code.co_qualname.split(".")[0])

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return {name: found - {"<lambda>", "<genexpr>"} for name, found in entered.items()}


def models_and_pairs():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=48, vocab_size=60)
    policy, reference = (GPT2LMHeadModel(config).eval() for _ in range(2))
    pair = {"prompt": [3, 4], "chosen": [5, 6, 7], "rejected": [8, 9]}
    brought = {"values": ([0.5, 1.0, 0.25], [1.0, 2.0]), "scores": (1.0, 0.5)}
    return policy, reference, [pair | brought, pair | brought | {"prompt": [4, 3]}]


def test_the_evaluation_of_a_run_depends_on_its_method_as_its_training_does(copy):
    before = versions(copy, "evaluate")
    path = copy / "src/sparsepo/objective/losses.py"
    text = path.read_text()
    path.write_text(with_a_line_more(text, "simpo"))
    after = versions(copy, "evaluate")
    path.write_text(text)
    assert {run for run in RUNS if after[run] != before[run]} == {"simpo", "sepo"}


FDPG, FEATURE = "fdpg/beta~0.1/seed~0", "fdpg_feature/target_mean~1/seed~0"
SEEN_ON_POLICY = {  # changed module -> runs that see it
    "objective/targets": {FDPG, FEATURE},
    "sampling/decoding": {FDPG, FEATURE},
    "on_policy/moving": {FDPG, FEATURE},
    "evaluation/features": {FDPG, FEATURE},
    "evaluation/tfidf": set(),
    "evaluation/classifiers": {FDPG},
    "training/preference": set(),
    "report/frontier": set(),
}


@pytest.mark.parametrize("module", SEEN_ON_POLICY)
def test_a_training_on_samples_sees_the_code_that_it_uses(copy, module):
    """The reward of one run is a classifier; the feature of the other is of words."""
    words = {"training": {"on_policy": {"words": ["good"]}}}
    scorer = {"kind": "classifier", "model": "m"}
    methods = {"fdpg": {"beta": ["0.1"]}, "fdpg_feature": {"target_mean": "1"}}
    task = task_of(preferences={"source": "generated", "scorer": scorer}, methods=methods, **words)

    def found():
        tree = Tree(copy)
        rows = {run: ALTERNATIVES["train_on_policy"](task, run, "") for run in (FDPG, FEATURE)}
        return {run: tree.version("workflow_scripts/train_on_policy.py", own) for run, own in rows.items()}

    before, path = found(), copy / f"src/sparsepo/{module}.py"
    text = path.read_text()
    path.write_text(f"{text}\n\ndef changed():\n    return 1\n\n\nprint(changed())\n")
    after = found()
    path.write_text(text)
    assert {run for run in before if after[run] != before[run]} == SEEN_ON_POLICY[module]


def test_a_training_on_samples_sees_no_loss_of_pairs(copy):
    rows = ALTERNATIVES["train_on_policy"](TASK, FDPG, "")
    before = Tree(copy).version("workflow_scripts/train_on_policy.py", rows)
    path = copy / "src/sparsepo/objective/losses.py"
    text = path.read_text()
    path.write_text(with_a_line_more(with_a_line_more(text, "dpo"), "sparsepo"))
    after = Tree(copy).version("workflow_scripts/train_on_policy.py", rows)
    path.write_text(text)
    assert after == before


def test_a_new_method_with_a_loss_a_mask_and_a_parameter_of_its_own_changes_no_other(copy):
    before, texts = versions(copy) | stage_versions(copy) | other_stages(copy), {}
    added = {
        "losses": ("LOSSES: dict", "def new(chosen, rejected):\n    return 1\n\n\nLOSSES: dict"),
        "masks": ("HEADS: dict", "class NewHead(MaskHead):\n    pass\n\n\nHEADS: dict"),
        "parameters": ("PARAMETERS = {", 'PARAMETERS = {\n    "theta": Parameter(number(ge=3), ""),'),
        "methods": ('= {\n    "dpo"', '= {\n    "new": Method("New", "new", {"theta": 4}, "", ""),\n    "dpo"'),
    }
    for module, (old, new) in added.items():
        path = copy / f"src/sparsepo/objective/{module}.py"
        texts[path] = path.read_text()
        assert old in texts[path]
        path.write_text(texts[path].replace(old, new, 1))
    after = versions(copy) | stage_versions(copy) | other_stages(copy)
    for path, text in texts.items():
        path.write_text(text)
    assert after == before


def other_stages(copy):
    """Of every script without alternatives: none reads a table of methods, losses or masks."""
    names = {path.stem for path in (copy / "workflow_scripts").glob("*.py")} - set(ALTERNATIVES)
    return {name: Tree(copy).version(f"workflow_scripts/{name}.py", {}) for name in names}


# --- sources and scorers

TASKS = {
    "planted": {},
    "classifier": {
        "evaluation": {"scorer": {"kind": "vader"}, "extra_scorers": {"of": {"kind": "classifier", "model": "m"}}}
    },
    "pairs": {"data": FILE, "preferences": PAIRS},
    "transcripts": {"data": FILE, "preferences": {"source": "transcripts", "hub": {"id": "x/y"}}},
}
SEEN = {  # changed module -> stage -> tasks that see it
    "data/planted": {"data": {"planted", "classifier"}, "evaluate": set(TASKS)},
    "data/transcripts": {"data": {"transcripts"}, "preferences": {"transcripts"}},
    "data/posts": {},
    "data/formats": {"data": {"pairs", "transcripts"}, "preferences": set(TASKS)},
    "sampling/decoding": {"preferences": {"planted", "classifier"}, "train": {"planted"}, "evaluate": set(TASKS)},
    "evaluation/sandbox": {},
    "evaluation/classifiers": {"evaluate": {"classifier"}},
    "attention": {stage: set(TASKS) for stage in ("reference", "train", "evaluate")},
}


@pytest.mark.parametrize("module", SEEN)
def test_a_changed_source_or_scorer_is_seen_by_the_tasks_that_use_it(copy, module):
    before = stage_versions(copy)
    path = copy / f"src/sparsepo/{module}.py"
    text = path.read_text()
    path.write_text(f"{text}\n\ndef changed():\n    return 1\n\n\nprint(changed())\n")
    after = stage_versions(copy)
    path.write_text(text)
    seen = {stage: {name for name in TASKS if after[stage, name] != before[stage, name]} for stage in STAGES}
    assert {stage: names for stage, names in seen.items() if names} == SEEN[module]


STAGES = ("data", "preferences", "reference", "train", "evaluate")


def stage_versions(copy):
    """(stage, task) -> version, of the first run; the task `planted` measures the frontier while it trains."""
    tree, found = Tree(copy), {}
    for name, changed in TASKS.items():
        training = {"training": {"frontier_every": 5 if name == "planted" else 0}}
        task = task_of(**changed, **training, methods={"dpo": {"beta": ["0.1"]}})
        for stage in STAGES:
            rows = ALTERNATIVES[stage](task, METHOD_RUNS["dpo"], "states")
            found[stage, name] = tree.version(f"workflow_scripts/{stage}.py", rows)
    return found


def test_a_module_that_a_job_may_leave_out_does_nothing_when_it_is_imported():
    """What is left out of a version is imported all the same: it must only define. `attention` is never left out."""
    source = ROOT / "src" / "sparsepo"
    files = [path for path in source.rglob("*.py") if "report" not in path.parts and path.parent != source / "config"]
    acting = {
        str(path.relative_to(source))
        for path in files
        for statement in read_module(path.read_text(), path.name).statements
        if not statement.binds and "__main__" not in statement.whole.code
    }
    assert acting == {"__init__.py", "attention.py"}
