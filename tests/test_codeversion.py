"""Claims about the code hash of a stage, on a small tree of the tests' own."""

import os

import pytest

from sparsepo.codeversion import ROOT, code_version

SCRIPT = "workflow_scripts/train.py"
TREE = {
    SCRIPT: "from sparsepo.training.loop import run\n\nrun()\n",
    "src/sparsepo/__init__.py": 'WHERE = {"dpo": 1}\n\n\ndef __getattr__(name): ...\n',
    "src/sparsepo/config/__init__.py": "import sparsepo.only_config\nSTEPS = 3\n",
    "src/sparsepo/only_config.py": "X = 1\n",
    "src/sparsepo/objective/__init__.py": "",
    "src/sparsepo/objective/losses.py": "def dpo(x):\n    return x + 1\n",
    "src/sparsepo/report.py": "Y = 1\n",
    "src/sparsepo/training/__init__.py": '"""Training."""\n',
    "src/sparsepo/training/loop.py": (
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
        "src/sparsepo/training/loop.py",
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
    write(tree, "src/sparsepo/training/loop.py", text)
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
    write(tree, "src/sparsepo/training/loop.py", "def run(:\n")
    with pytest.raises(SyntaxError) as error:
        version(tree)
    assert error.value.filename.endswith("src/sparsepo/training/loop.py")


def test_every_workflow_script_of_the_project_can_be_hashed():
    scripts = sorted((ROOT / "workflow_scripts").glob("*.py"))
    assert len({code_version(f"workflow_scripts/{script.name}") for script in scripts}) > 1


# --- tables of alternatives

LOSSES = """\
from sparsepo.objective.smooth import softplus
from sparsepo.objective import other

LOW, HIGH = 0, 1


def base(x):
    return x


def dpo(x):
    return base(x) + LOW


def ipo(x, of=softplus):
    return of(x)


class Kept:
    loss: "hinge"


def hinge(x):
    return other.hinge(x)


LOSSES = {"dpo": dpo, "ipo": ipo, "hinge": lambda x: Kept()}
"""
LOOP = "from sparsepo.objective.losses import LOSSES, base\n\n\ndef run():\n    return LOSSES['dpo'](base(1))\n"
ROWS = ("dpo", "ipo", "hinge")
CHANGES = [
    ("return base(x) + LOW", "return base(x) - LOW", {"dpo"}),
    ("return of(x)", "return -of(x)", {"ipo"}),
    ("return other.hinge(x)", "return -other.hinge(x)", {"hinge"}),  # named in an annotation given as text
    ("    return x\n", "    return +x\n", set(ROWS)),  # asked for by name
    ("LOW, HIGH = 0, 1", "LOW, HIGH = 0, 2", {"dpo"}),
    ('"ipo": ipo', '"ipo": dpo', {"ipo"}),
    ("lambda x: Kept()", "lambda x: -Kept()", {"hinge"}),
    ("class Kept:", "def robust(x):\n    return x\n\n\nclass Kept:", set()),
    ('{"dpo": dpo, ', '{"dpo": dpo, "robust": base, ', set()),
    ("class Kept:", "@register\ndef robust(x):\n    return x\n\n\nclass Kept:", set(ROWS)),
    ("class Kept:", "LOSSES_MADE = print(1)\n\n\nclass Kept:", set()),
    ("class Kept:", "print(1)\n\n\nclass Kept:", set(ROWS)),
    ("def hinge(x):", 'def hinge(x):\n    """Again."""', set()),
]


@pytest.fixture
def alternatives(tree):
    write(tree, "src/sparsepo/objective/losses.py", LOSSES)
    write(tree, "src/sparsepo/training/loop.py", LOOP)
    for name in ("smooth", "other"):
        write(tree, f"src/sparsepo/objective/{name}.py", "X = 1\n")
    return tree


def changed_rows(tree, change):
    """The rows whose version `change` changes."""
    before = row_versions(tree)
    change()
    return {row for row, version in row_versions(tree).items() if version != before[row]}


def row_versions(tree):
    return {row: code_version(SCRIPT, {"sparsepo.objective.losses.LOSSES": [row]}, tree) for row in ROWS}


def rewritten(tree, name, old, new):
    text = (tree / name).read_text()
    assert old in text
    return lambda: write(tree, name, text.replace(old, new))


@pytest.mark.parametrize(("old", "new", "rows"), CHANGES, ids=[new.split("\n")[0] for _, new, _ in CHANGES])
def test_a_change_in_a_table_of_alternatives_is_seen_by_the_rows_that_use_it(alternatives, old, new, rows):
    change = rewritten(alternatives, "src/sparsepo/objective/losses.py", old, new)
    assert changed_rows(alternatives, change) == rows


@pytest.mark.parametrize(("module", "row"), [("smooth", "ipo"), ("other", "hinge")])
def test_a_module_that_one_row_alone_imports_is_seen_by_that_row(alternatives, module, row):
    change = rewritten(alternatives, f"src/sparsepo/objective/{module}.py", "1", "2")
    assert changed_rows(alternatives, change) == {row}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("losses", LOSSES + "\n\ndef of(name):\n    return globals()[name]\n"),
        ("losses", LOSSES + "\n\ndef of(name):\n    return vars()[name]\n"),
        ("losses", LOSSES + "\n\nEVERY = list(LOSSES.values())\n"),
        ("losses", LOSSES.replace("return base(x)", "return eval('base')(x)")),
        ("loop", LOOP.replace("LOSSES['dpo'](base(1))", "[loss(1) for loss in LOSSES.values()]")),
        ("loop", LOOP.replace("LOSSES['dpo'](base(1))", "{**LOSSES}")),
        ("loop", LOOP.replace("LOSSES['dpo'](base(1))", "base(LOSSES)")),
        ("loop", LOOP.replace("LOSSES, base", "LOSSES as L, base")),
        ("loop", LOOP.replace("import LOSSES, base", "import *")),
        ("loop", "from sparsepo.objective import losses\n\n\ndef run():\n    return losses.LOSSES\n"),
        ("loop", "import sparsepo.objective.losses\n"),
    ],
)
def test_a_table_that_is_not_read_row_by_row_counts_whole(alternatives, name, text):
    folder = {"losses": "objective", "loop": "training"}[name]
    write(alternatives, f"src/sparsepo/{folder}/{name}.py", text)
    change = rewritten(alternatives, "src/sparsepo/objective/losses.py", "return of(x)", "return -of(x)")
    assert changed_rows(alternatives, change) == set(ROWS)


def test_without_rows_only_what_is_asked_for_by_name_counts(alternatives):
    def none():
        return code_version(SCRIPT, {"sparsepo.objective.losses.LOSSES": []}, alternatives)

    before = none()
    rewritten(alternatives, "src/sparsepo/objective/losses.py", "return base(x) + LOW", "return 3")()
    assert none() == before
    rewritten(alternatives, "src/sparsepo/objective/losses.py", "    return x\n", "    return -x\n")()
    assert none() != before


def test_a_table_of_the_script_itself_is_read_row_by_row(alternatives):
    text = "from sparsepo import report\n\n\ndef drawn():\n    return report.Y\n\n\nEXTRAS = {'figure': drawn}\n"
    write(alternatives, SCRIPT, f"{text}\nif __name__ == '__main__':\n    print('figure' in EXTRAS)\n")
    made = {rows: code_version(SCRIPT, {"EXTRAS": rows}, alternatives) for rows in ((), ("figure",))}
    write(alternatives, "src/sparsepo/report.py", "Y = 2\n")
    assert code_version(SCRIPT, {"EXTRAS": ()}, alternatives) == made[()]
    assert code_version(SCRIPT, {"EXTRAS": ("figure",)}, alternatives) != made[("figure",)]


@pytest.mark.parametrize("table", ["{name: dpo for name in 'ab'}", "{'ipo': ipo}", "{'dpo': dpo, **{}}"])
def test_a_table_without_the_row_or_not_literal_is_refused_with_its_place(alternatives, table):
    text = LOSSES[: LOSSES.index("LOSSES = {")] + f"LOSSES = {table}\n"
    write(alternatives, "src/sparsepo/objective/losses.py", text)
    with pytest.raises(ImportError, match=r"^src/sparsepo/objective/losses.py: `LOSSES` is no literal table with"):
        code_version(SCRIPT, {"sparsepo.objective.losses.LOSSES": ["dpo"]}, alternatives)
