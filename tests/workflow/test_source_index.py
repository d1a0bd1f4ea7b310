"""Claims about how a Python file is read: what of it is code, which names a statement uses, and what it imports."""

import pytest

from sparsepo.workflow.source_index import ON_IMPORT, Import, Module

FUNCTION = '''\
def train(steps: int) -> float:
    """Train."""
    if steps < 1:
        raise ValueError(f"{steps} steps are too few")
    print("training", steps, flush=True)
    print(f"{steps} steps")
    for step in progress(range(steps), steps, "steps"):
        parser.add_argument("--step", type=int, help="a step")
        logger.warning("step %d", step)
    return steps / 2
'''
SAME = [
    ("def train(", "# A remark.\n\ndef train("),
    ('    """Train."""\n', '    """Train a model.\n\n    Again.\n    """\n'),
    ("steps: int) -> float", "steps: float) -> int"),
    ("    return steps / 2", "    return (\n        steps / 2\n    )"),
    ("steps are too few", "is not enough: write 1 or more"),
    ('ValueError(f"{steps} steps are too few")', "ValueError(nearest(steps, ALLOWED))"),
    ('print("training", steps, flush=True)', 'print("training for", steps, flush=True)'),
    ('    print(f"{steps} steps")\n', ""),
    ('"steps"):', 'f"steps of {steps}"):'),
    ("a step", "the step"),
    ('logger.warning("step %d", step)', 'logger.warning("at step %d", step)'),
]
OTHER = [
    ("steps < 1", "steps < 2"),
    ("ValueError(", "KeyError("),
    ("steps: int", "steps: int = 1"),
    ("progress(range(steps)", "progress(range(1, steps)"),
    ('"--step"', '"--steps"'),
    ('print("training", steps, flush=True)', 'write("training", steps, flush=True)'),
    ('print("training", steps, flush=True)', 'print("training", fit(steps), flush=True)'),
    ("return steps / 2", "return print(steps)"),
    ("    return steps / 2", "    log({'loss': steps})\n    return steps / 2"),
]


def texts(source, name="train"):
    return [code.text for code in Module(source, "module.py").code(name)]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_layout_annotations_of_functions_and_words_for_a_person_are_not_code(old, new):
    assert old in FUNCTION
    assert texts(FUNCTION.replace(old, new)) == texts(FUNCTION)


@pytest.mark.parametrize(("old", "new"), OTHER)
def test_what_is_computed_and_what_decides_about_it_is_code(old, new):
    assert old in FUNCTION
    assert texts(FUNCTION.replace(old, new)) != texts(FUNCTION)


def test_words_for_a_person_lead_nowhere():
    source = FUNCTION.replace('f"{steps} steps are too few"', "nearest(steps, ALLOWED)")
    (code,) = Module(source, "module.py").code("train")
    assert {"steps", "ValueError", "progress", "range", "parser"} <= code.names
    assert not {"nearest", "ALLOWED"} & code.names


def test_the_fields_of_a_class_and_their_types_are_code():
    assert texts("class Row:\n    size: int\n", "Row") != texts("class Row:\n    size: float\n", "Row")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch.nn, math as m\n", {"torch", "m"}),
        ("from a.b import c, d as e\n", {"c", "e"}),
        ("from a import *\n", {ON_IMPORT}),
        ("def f(): ...\n@dataclass\nclass G: ...\n", {"f", "G"}),
        ("A, B = 1, 2\nC: int = 3\nD = E = 4\nA |= F\n", {"A", "B", "C", "D", "E"}),
        ('"""A module."""\n', {ON_IMPORT}),
        ("register(1)\n", {ON_IMPORT}),
        ("torch.size = 3\nif A:\n    B = 1\n", {ON_IMPORT}),
        ("if __name__ == '__main__':\n    main()\n", {"__main__"}),
    ],
)
def test_a_statement_stands_under_the_names_that_it_binds(source, names):
    assert set(Module(source, "module.py").statements) == names


def test_a_docstring_of_a_module_does_nothing_when_it_is_imported():
    assert texts('"""A module."""\n', ON_IMPORT) == [""]


def test_all_that_binds_a_name_is_its_code():
    assert len(texts("A = 1\nA |= 2\nA, B = 3, 4\n", "A")) == 3


def test_imports_are_found_at_any_depth_with_their_lines():
    source = "import a.b\n\n\ndef f():\n    from c import d, e as g\n\n    from . import h\n"
    module = Module(source, "module.py")
    assert module.imports == [Import("a.b", "", 1)]
    (code,) = module.code("f")
    assert code.imports == [Import("c", "d", 5), Import("c", "e", 5), Import(".", "h", 7)]


TABLE = "ROWS: dict[str, Row] = {'b': B, 'a': lambda: A}\n"


@pytest.mark.parametrize(("rows", "names"), [("", set()), ("b", {"B"}), ("a", {"A"}), ("ab", {"A", "B"}), ("c", set())])
def test_of_a_table_the_chosen_rows_and_its_frame_are_code(rows, names):
    codes = Module(TABLE, "module.py").code("ROWS", frozenset(rows))
    assert set().union(*(code.names for code in codes)) == names | {"ROWS", "dict", "str", "Row"}


def test_neither_the_order_of_rows_nor_another_row_changes_the_code_of_a_row():
    def rows(table):
        return [code.text for code in Module(table, "module.py").code("ROWS", frozenset("ab"))]

    assert rows(TABLE) == rows("ROWS: dict[str, Row] = {'a': lambda: A, 'c': C, 'b': B}\n")
    assert rows(TABLE) != rows(TABLE.replace("'b': B", "'b': C"))


@pytest.mark.parametrize("table", ["ROWS = {key: B for key in 'ab'}\n", "ROWS = {'b': B, **A}\n", "ROWS = dict(b=B)\n"])
def test_a_table_that_is_not_literal_counts_whole_where_a_row_of_it_is_chosen(table):
    module = Module(table, "module.py")
    assert module.code("ROWS", frozenset("b")) == module.code("ROWS")
    assert module.code("ROWS", frozenset()) == []


def test_a_syntax_error_names_its_file():
    with pytest.raises(SyntaxError) as error:
        Module("def run(:\n", "src/module.py")
    assert error.value.filename == "src/module.py"
