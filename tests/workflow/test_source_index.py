"""Claims about tables of alternatives, of which a code version counts the rows that a job uses."""

import pytest

from sparsepo.workflow.code_version import code_version

SCRIPT = "workflow_scripts/train.py"
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
def alternatives(tmp_path):
    write(tmp_path, SCRIPT, "from sparsepo.training.base_trainer import run\n\nrun()\n")
    write(tmp_path, "src/sparsepo/objective/losses.py", LOSSES)
    write(tmp_path, "src/sparsepo/training/base_trainer.py", LOOP)
    for name in ("smooth", "other"):
        write(tmp_path, f"src/sparsepo/objective/{name}.py", "X = 1\n")
    return tmp_path


def write(tree, name, text):
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


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
    write(alternatives, "src/sparsepo/report.py", "Y = 1\n")
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
