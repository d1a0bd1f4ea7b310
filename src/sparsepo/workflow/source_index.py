"""Python modules read without running them: the code of each top-level statement, and the names and imports in it."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from copy import copy
from functools import cache
from typing import NamedTuple

ON_IMPORT = ""
"""In place of a name: the statements that bind none, which act when the module is imported."""
REPORTS = {"print", "progress", "warn", "debug", "info", "warning", "error", "exception", "critical"}
"""Functions and methods whose texts are for a person."""


class Import(NamedTuple):
    """`from module import name`, or `import module` where `name` is empty; a relative module begins with a dot."""

    module: str
    name: str
    line: int


class Code(NamedTuple):
    """A statement, or a row of a table: its text, every name in it, and its imports.

    Left out are comments, docstrings, layout, annotations of functions, and what only a person reads: arguments of
    errors, the help of options, and texts that are printed, logged, or stand at a progress bar.
    """

    text: str
    names: set[str]
    imports: list[Import]


class Module:
    """The top-level statements of a module by the names that they bind, see _by_name; `path` is for a SyntaxError."""

    def __init__(self, text: str, path: str) -> None:
        self.statements: dict[str, list[ast.stmt]] = defaultdict(list)
        self.imports: list[Import] = []
        for node in ast.parse(text, path).body:
            self.imports += _imports(node)
            for name, statement in _by_name(node):
                self.statements[name].append(statement)
        self.code = cache(self._code)

    def _code(self, name: str, rows: frozenset[str] | None = None) -> list[Code]:
        """What binds a name. With `rows`: of a literal dict these rows and its frame, of anything else all if any."""
        return [_read(part) for node in self.statements.get(name, ()) for part in _parts(node, rows)]


def _by_name(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Each name that a statement binds, imports taken apart; ON_IMPORT for none, __main__ for what a script does."""
    match node:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            for alias in names:
                single = copy(node)
                single.names = [alias]
                yield ON_IMPORT if alias.name == "*" else alias.asname or alias.name.split(".")[0], single
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name, node
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            targets = [part for target in targets for part in getattr(target, "elts", [target])]
            for name in {getattr(target, "id", ON_IMPORT) for target in targets}:
                yield name, node
        case ast.If(test=ast.Compare(left=ast.Name("__name__"))):
            yield "__main__", node
        case _:
            yield ON_IMPORT, node


def _parts(node: ast.stmt, rows: frozenset[str] | None) -> list[ast.AST]:
    table = getattr(node, "value", None)
    if rows is None or not isinstance(table, ast.Dict) or None in table.keys:
        return [node] if rows is None or rows else []
    values = {getattr(key, "value", None): value for key, value in zip(table.keys, table.values, strict=True)}
    frame = copy(node)
    frame.value = ast.Dict([], [])
    return [frame, *(values[key] for key in sorted(rows) if key in values)]


def _imports(node: ast.AST) -> list[Import]:
    """Also of a text that is the full name of a definition of the package, as rows of tables have them."""
    if isinstance(node, ast.Import):
        return [Import(alias.name, "", node.lineno) for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"sparsepo(\.\w+)+", node.value):
        module, _, name = node.value.rpartition(".")
        return [Import(module, name, node.lineno)]
    names = node.names if isinstance(node, ast.ImportFrom) else []
    return [Import("." * node.level + (node.module or ""), alias.name, node.lineno) for alias in names]


def _read(part: ast.AST) -> Code:
    nodes: list[ast.AST] = [ast.Expression(part) if isinstance(part, ast.expr) else ast.Module([part], [])]
    for node in nodes:  # grows
        _leave_out(node)
        nodes += ast.iter_child_nodes(node)
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return Code(ast.unparse(nodes[0]), names, [one for node in nodes for one in _imports(node)])


def _leave_out(node: ast.AST) -> None:
    """Take out of a node what does not count, see Code."""
    for block in ("body", "orelse", "finalbody"):
        if isinstance(statements := getattr(node, block, None), list):
            setattr(node, block, [one for one in statements if not _only_says(one)])
    match node:
        case ast.Raise(exc=ast.Call(func=error)):
            node.exc = error
        case ast.arg():
            node.annotation = None
        case ast.FunctionDef():
            node.returns = None
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)):
            node.args = [one for one in node.args if name not in REPORTS or not _is_text(one)]
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "help"]


def _only_says(node: ast.stmt) -> bool:
    """Whether a statement is a docstring, or a report of nothing but texts."""
    match node:
        case ast.Expr(ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=arguments)):
            return name in REPORTS and all(map(_is_text, arguments))
    return isinstance(node, ast.Expr) and _is_text(node.value)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.JoinedStr)
