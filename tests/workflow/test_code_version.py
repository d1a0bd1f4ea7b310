"""Claims about the code version of a job, on a small tree of the tests' own."""

import json
import os

import pytest

from sparsepo.workflow.code_version import ROOT, SourceTree, choices, code_version

SCRIPT = "workflow_scripts/train.py"
TRAINER, TABLE = "src/sparsepo/training/base_trainer.py", "src/sparsepo/training/step_statistics.py"
SMOOTH, OTHER, ACTS = (f"src/sparsepo/objective/{name}.py" for name in ("smooth", "other", "acts"))
TREE = {
    SCRIPT: "from sparsepo.training.base_trainer import run\n\nif __name__ == '__main__':\n    run()\n",
    TRAINER: (
        '"""The trainer."""\n\nimport math\n\nfrom sparsepo.config import STEPS\n'
        "from sparsepo.training.step_statistics import STATISTICS, base\n"
        "from sparsepo.runtime.errors import check\n\n\n"
        "def run(name):\n    check(STEPS)\n"
        "    return math.exp(STATISTICS[name](base(1)))\n\n\ndef unused():\n    return 1\n"
    ),
    TABLE: """\
import sparsepo.objective.acts
from sparsepo.objective.smooth import softplus

LOW, HIGH = 0, 1


def base(x):
    return x


def dpo(x):
    return base(x) + LOW


def ipo(x, of=softplus):
    return of(x)


class Kept:
    value = HIGH


def hinge(x):
    from sparsepo.objective import other

    return other.hinge(x)


STATISTICS = {"dpo": dpo, "ipo": ipo, "hinge": lambda x: Kept(hinge(x))}
""",
    SMOOTH: "def softplus(x):\n    return x\n\n\ndef softmin(x):\n    return x\n",
    OTHER: "def hinge(x):\n    return x\n",
    ACTS: "import registry\n\nregistry.add(1)\n",
    "src/sparsepo/__init__.py": 'WHERE = {"dpo": 1}\n\n\ndef __getattr__(name): ...\n',
    "src/sparsepo/config/__init__.py": "from sparsepo.objective.other import hinge\n\nSTEPS = 3\n",
    "src/sparsepo/runtime/errors.py": "def check(x):\n    return x\n",
    "src/sparsepo/objective/__init__.py": "",
    "src/sparsepo/training/__init__.py": '"""Training."""\n',
    "src/sparsepo/report.py": "Y = 1\n",
}
ROWS = ("dpo", "ipo", "hinge")
ALL = set(ROWS)
CHANGES = [
    # file, old code, new code, the rows whose version it changes
    (SCRIPT, "    run()", "    run('dpo')", ALL),
    (TRAINER, "math.exp", "math.log", ALL),
    (TRAINER, "import math", "import cmath as math", ALL),
    (TRAINER, "def unused():\n    return 1", "def unused():\n    return 2", set()),
    (TRAINER, "import math\n", "import math\n\nimport sparsepo.report\n", set()),
    (TABLE, "    return x\n", "    return +x\n", ALL),
    (TABLE, "return base(x) + LOW", "return base(x) - LOW", {"dpo"}),
    (TABLE, "return of(x)", "return -of(x)", {"ipo"}),
    (TABLE, "return other.hinge(x)", "return -other.hinge(x)", {"hinge"}),
    (TABLE, "value = HIGH", "value = -HIGH", {"hinge"}),
    (TABLE, "LOW, HIGH = 0, 1", "LOW, HIGH = 0, 2", {"dpo", "hinge"}),
    (TABLE, '"ipo": ipo', '"ipo": dpo', {"ipo"}),
    (TABLE, "lambda x: Kept", "lambda x: -Kept", {"hinge"}),
    (TABLE, "class Kept:", "def robust(x):\n    return x\n\n\nclass Kept:", set()),
    (TABLE, '{"dpo": dpo, ', '{"dpo": dpo, "robust": base, ', set()),
    (TABLE, "def hinge(x):", 'def hinge(x: int) -> int:\n    """Again."""\n    # A remark.\n', set()),
    (TABLE, "class Kept:", "OTHERS = {}\n\n\nclass Kept:", set()),
    (TABLE, "class Kept:", "register(dpo)\n\n\nclass Kept:", ALL),  # it acts when the module is imported
    (SMOOTH, "def softplus(x):\n    return x", "def softplus(x):\n    return -x", {"ipo"}),
    (SMOOTH, "def softmin(x):\n    return x", "def softmin(x):\n    return -x", set()),
    (OTHER, "return x", "return -x", {"hinge"}),
    (ACTS, "registry.add(1)", "registry.add(2)", ALL),
    ("src/sparsepo/objective/__init__.py", "", "register(1)\n", ALL),
    ("src/sparsepo/config/__init__.py", "STEPS = 3", "STEPS = 4", set()),
    ("src/sparsepo/runtime/errors.py", "return x", "return -x", set()),
    ("src/sparsepo/report.py", "Y = 1", "Y = 2", set()),
]


@pytest.fixture
def tree(tmp_path):
    for name, text in TREE.items():
        write(tmp_path, name, text)
    return tmp_path


def write(tree, name, text):
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def version(tree, row="dpo", **settings):
    return SourceTree(tree).version(SCRIPT, choices(json.dumps({"method": {"statistic": row}} | settings)))


def changed_rows(tree, name, old, new):
    """The rows whose version changes with a file."""
    before = {row: version(tree, row) for row in ROWS}
    text = (tree / name).read_text()
    assert old in text
    write(tree, name, text.replace(old, new, 1) if old else new)
    return {row for row in ROWS if version(tree, row) != before[row]}


@pytest.mark.parametrize(("name", "old", "new", "rows"), CHANGES, ids=[f"{c[0]}: {c[2][:30]}" for c in CHANGES])
def test_a_change_is_seen_by_the_jobs_that_it_leads_to_and_by_no_other(tree, name, old, new, rows):
    assert changed_rows(tree, name, old, new) == rows


def test_the_rows_have_different_versions(tree):
    assert len({version(tree, row) for row in ROWS}) == 3


def test_a_job_whose_settings_name_no_row_depends_on_none(tree):
    before = version(tree, None)
    write(tree, TABLE, TREE[TABLE].replace("base(x) + LOW", "3").replace("of(x)", "4"))
    assert version(tree, None) == before
    write(tree, TABLE, TREE[TABLE].replace("    return x\n", "    return -x\n"))
    assert version(tree, None) != before


LOSSES = "src/sparsepo/objective/losses.py"


def test_of_a_module_whose_definitions_a_setting_names_only_that_one_counts(tree):
    text = "def dpo(x):\n    return margin(x)\n\n\ndef margin(x):\n    return x\n\n\ndef ipo(x):\n    return x\n"
    write(tree, LOSSES, text)
    write(tree, SCRIPT, "from sparsepo.objective import losses\n\nuse(getattr(losses, NAME))\n")
    before = {loss: version(tree, loss=loss) for loss in ("dpo", "ipo", None)}
    for old, new, changed in [
        ("return margin(x)", "return -margin(x)", {"dpo"}),
        ("def margin(x):\n    return x", "def margin(x):\n    return -x", {"dpo"}),
        ("def ipo(x):\n    return x", "def ipo(x):\n    return -x", {"ipo"}),
    ]:
        write(tree, LOSSES, text.replace(old, new))
        assert {loss for loss in before if version(tree, loss=loss) != before[loss]} == changed


def test_the_full_name_of_a_definition_in_a_row_leads_to_it(tree):
    table, heads = "src/sparsepo/methods/method.py", "src/sparsepo/objective/heads.py"
    rows = '{"last": Mask("sparsepo.objective.heads.Last"), "none": Mask("")}'
    write(tree, table, f"class Mask:\n    pass\n\n\nMASKS = {rows}\n")
    write(tree, heads, "class Last:\n    value = 1\n\n\nclass Other:\n    value = 1\n")
    write(tree, SCRIPT, "from sparsepo.methods.method import MASKS\n\nuse(MASKS[NAME])\n")
    before = {mask: version(tree, mask=mask) for mask in ("last", "none")}
    write(tree, heads, "class Last:\n    value = 2\n\n\nclass Other:\n    value = 2\n")
    assert [mask for mask in before if version(tree, mask=mask) != before[mask]] == ["last"]


def test_a_function_behind_a_setting_counts_where_the_setting_is_given(tree):
    name = "src/sparsepo/evaluation/frontier.py"
    write(tree, name, "def frontier_evaluator():\n    return 1\n")
    text = "from sparsepo.evaluation.frontier import frontier_evaluator\n\nfrontier_evaluator()\n"
    write(tree, SCRIPT, TREE[SCRIPT] + text)
    every = (0, None, 5)
    before = [version(tree, training={"frontier_every": steps}) for steps in every]
    write(tree, name, "def frontier_evaluator():\n    return 2\n")
    after = [version(tree, training={"frontier_every": steps}) for steps in every]
    assert [new != old for new, old in zip(after, before, strict=True)] == [False, False, True]


def test_choices_are_found_wherever_they_stand_in_the_settings():
    settings = [
        {"scorers": {"reward": {"kind": "vader"}, "also": [{"kind": "tfidf"}]}},
        {"mask": None, "execution": {}},
    ]
    assert choices(json.dumps(settings)) == {("kind", "vader"), ("kind", "tfidf")}
    assert choices('{"execution": {"workers": 2}, "frontier_every": 0}') == {("execution", "")}


@pytest.mark.parametrize(
    "text",
    [
        "import sparsepo.training.step_statistics\n\nuse(sparsepo)\n",
        "import sparsepo.training.step_statistics as step_statistics\n\nuse(step_statistics)\n",
        "from sparsepo.training import step_statistics\n\nuse(step_statistics)\n",
        "from sparsepo.training.step_statistics import *\n",
        "def f():\n    from sparsepo.training import step_statistics\n\n    return step_statistics\n\n\nf()\n",
    ],
)
def test_a_module_that_is_taken_whole_counts_whole_but_for_rows_that_are_not_chosen(tree, text):
    write(tree, SCRIPT, text)
    assert changed_rows(tree, TABLE, "LOW, HIGH = 0, 1", "LOW, HIGH = 0, 2") == ALL
    assert changed_rows(tree, TABLE, '"ipo": ipo', '"ipo": lambda x: x') == {"ipo"}


def test_file_times_and_the_place_of_the_tree_leave_the_version(tree, tmp_path_factory):
    before = version(tree)
    for name in TREE:
        os.utime(tree / name, (1, 1))
    assert version(tree) == before
    moved = tmp_path_factory.mktemp("clone") / "elsewhere"
    tree.rename(moved)
    assert version(moved) == before


@pytest.mark.parametrize("text", ["from . import losses\n", "def f():\n    from .losses import dpo\n\n\nf()\n"])
def test_a_relative_import_is_refused_with_its_place(tree, text):
    write(tree, TRAINER, f"{text}\nrun = 1\n")
    write(tree, SCRIPT, "from sparsepo.training.base_trainer import *\n")
    line = 1 + text.startswith("def")
    with pytest.raises(ImportError, match=rf"^{TRAINER}, line {line}: a relative import"):
        version(tree)


@pytest.mark.parametrize(
    "text", ["from sparsepo import dpo\n\nuse(dpo)\n", "from sparsepo import *\n", "import sparsepo\n\nuse(sparsepo)\n"]
)
def test_an_import_through_the_lazy_face_of_the_package_is_refused(tree, text):
    write(tree, SCRIPT, text)
    with pytest.raises(ImportError, match=rf"^{SCRIPT}, line 1: lazy attributes of `sparsepo`"):
        version(tree)


def test_a_module_taken_from_the_lazy_package_is_followed(tree):
    write(tree, SCRIPT, "from sparsepo import report\n\nuse(report)\n")
    before = version(tree)
    write(tree, "src/sparsepo/report.py", "Y = 2\n")
    assert version(tree) != before


def test_every_workflow_script_of_the_project_has_a_version_of_its_own():
    scripts = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "workflow_scripts").glob("*.py"))
    assert len({code_version(script) for script in scripts}) == len(scripts) > 1
