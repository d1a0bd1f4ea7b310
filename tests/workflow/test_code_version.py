"""Claims about the code hash of a stage, on a small tree of the tests' own."""

import os

import pytest

from sparsepo.workflow.code_version import ROOT, code_version

SCRIPT = "workflow_scripts/train.py"
TREE = {
    SCRIPT: "from sparsepo.training.base_trainer import run\n\nrun()\n",
    "src/sparsepo/__init__.py": 'WHERE = {"dpo": 1}\n\n\ndef __getattr__(name): ...\n',
    "src/sparsepo/config/__init__.py": "import sparsepo.only_config\nSTEPS = 3\n",
    "src/sparsepo/only_config.py": "X = 1\n",
    "src/sparsepo/objective/__init__.py": "",
    "src/sparsepo/objective/losses.py": "def dpo(x):\n    return x + 1\n",
    "src/sparsepo/report.py": "Y = 1\n",
    "src/sparsepo/training/__init__.py": '"""Training."""\n',
    "src/sparsepo/training/base_trainer.py": (
        '"""Loop."""\n\nfrom sparsepo.config import STEPS\n\n\ndef run():\n    """Run."""\n'
        "    from sparsepo.objective import losses\n\n    return losses.dpo(STEPS)\n"
    ),
}


@pytest.fixture
def tree(tmp_path):
    for name, text in TREE.items():
        write(tmp_path, name, text)
    return tmp_path


def write(tree, name, text):
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def version(tree):
    return code_version(SCRIPT, root=tree)


@pytest.mark.parametrize(
    "name",
    [
        SCRIPT,
        "src/sparsepo/training/base_trainer.py",
        "src/sparsepo/training/__init__.py",
        "src/sparsepo/objective/__init__.py",
        "src/sparsepo/objective/losses.py",
    ],
)
def test_code_of_the_script_or_of_what_it_imports_changes_the_hash(tree, name):
    before = version(tree)
    write(tree, name, TREE[name] + "Z = 2\n")
    assert version(tree) != before
    write(tree, name, TREE[name])
    assert version(tree) == before


@pytest.mark.parametrize(
    "name",
    [
        "src/sparsepo/report.py",
        "src/sparsepo/config/__init__.py",
        "src/sparsepo/only_config.py",
        "src/sparsepo/__init__.py",
        "src/sparsepo/new.py",
    ],
)
def test_code_that_the_script_does_not_import_leaves_the_hash(tree, name):
    before = version(tree)
    write(tree, name, TREE.get(name, "") + "Z = 2\n")
    assert version(tree) == before


@pytest.mark.parametrize(
    "text",
    [
        "def dpo(x):\n    # the margin\n    return x + 1\n",
        'def dpo(x):\n    """A loss."""\n    return x + 1\n',
        '"""Losses."""\n\n\ndef dpo(\n    x,\n):\n    return (x +\n            1)\n',
    ],
)
def test_comments_docstrings_and_layout_leave_the_hash(tree, text):
    before = version(tree)
    write(tree, "src/sparsepo/objective/losses.py", text)
    assert version(tree) == before


def test_a_constant_in_a_loss_changes_the_hash(tree):
    before = version(tree)
    write(tree, "src/sparsepo/objective/losses.py", "def dpo(x):\n    return x + 2\n")
    assert version(tree) != before


def test_file_times_and_the_place_of_the_tree_leave_the_hash(tree, tmp_path_factory):
    before = version(tree)
    for name in TREE:
        os.utime(tree / name, (1, 1))
    assert version(tree) == before
    moved = tmp_path_factory.mktemp("clone") / "elsewhere"
    tree.rename(moved)
    assert version(moved) == before


def test_an_import_for_type_checkers_only_is_not_followed(tree):
    head = "from typing import TYPE_CHECKING\n\nif {}TYPE_CHECKING:\n    import sparsepo.report\n"
    for test, is_followed in (("", False), ("not ", True)):
        write(tree, SCRIPT, head.format(test))
        write(tree, "src/sparsepo/report.py", "Y = 1\n")
        before = version(tree)
        write(tree, "src/sparsepo/report.py", "Y = 2\n")
        assert (version(tree) != before) == is_followed


@pytest.mark.parametrize("text", ["from . import losses\n", "def f():\n    from .losses import dpo\n"])
def test_a_relative_import_is_refused_with_its_place(tree, text):
    write(tree, "src/sparsepo/training/base_trainer.py", text)
    line = text.count("\n")
    place = rf"^src/sparsepo/training/loop\.py, line {line}: a relative import"
    with pytest.raises(ImportError, match=place):
        version(tree)


@pytest.mark.parametrize(
    "text",
    ["from sparsepo import dpo\n", "from sparsepo import *\n", "import sparsepo\n"],
)
def test_an_import_through_the_lazy_face_of_the_package_is_refused(tree, text):
    write(tree, SCRIPT, text)
    with pytest.raises(ImportError, match=rf"^{SCRIPT}, line 1: lazy attributes of `sparsepo`"):
        version(tree)


def test_a_module_taken_from_the_lazy_package_is_followed(tree):
    write(tree, SCRIPT, "from sparsepo import report\n")
    before = version(tree)
    write(tree, "src/sparsepo/report.py", "Y = 2\n")
    assert version(tree) != before


def test_a_syntax_error_names_its_file(tree):
    write(tree, "src/sparsepo/training/base_trainer.py", "def run(:\n")
    with pytest.raises(SyntaxError) as error:
        version(tree)
    assert error.value.filename.endswith("src/sparsepo/training/base_trainer.py")


def test_every_workflow_script_of_the_project_can_be_hashed():
    scripts = sorted((ROOT / "workflow_scripts").glob("*.py"))
    assert len({code_version(f"workflow_scripts/{script.name}") for script in scripts}) > 1
