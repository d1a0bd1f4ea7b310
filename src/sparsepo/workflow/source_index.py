"""Python files read without running them, statement by statement: what each binds, looks at and imports."""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

TYPING_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
HARMLESS = {"dataclass", "cache", "lru_cache", "contextmanager", "no_grad", "Compiled"}
"""Decorators that only change what they decorate; any other may register it somewhere."""
HIDING_ANYWHERE = {"import_module", "__subclasses__", "__init_subclass__"}
"""Functions that reach a definition without its name, called on anything; so do those of `HIDING` by themselves."""
HIDING = {"globals", "locals", "eval", "exec", "__import__"} | HIDING_ANYWHERE


@dataclass(frozen=True)
class Import:
    line: int
    module: str
    names: tuple[str, ...] = ()  # none: `import module`


@dataclass(frozen=True)
class Part:
    """Code without comments, docstrings and layout, every name in it, and its imports."""

    code: str
    names: frozenset[str]
    imports: tuple[Import, ...]


@dataclass(frozen=True)
class Statement:
    """A statement of a module. `binds` no name: it acts when the module is imported, so it always counts.

    `rows` of a table, a literal dict with texts as keys, are its values; `frame` is the rest of it.
    """

    whole: Part
    binds: frozenset[str] = frozenset()
    frame: Part | None = None
    rows: Mapping[str, Part] = field(default_factory=dict)

    def parts(self, tables: Mapping[str, Collection[str]]) -> list[Part]:
        """The whole, or of a table in `tables` the rows it names. Raises ImportError for a row that is not there."""
        name = next(iter(self.binds & set(tables)), None)
        if name is None:
            return [self.whole]
        if self.frame is None or not set(tables[name]) <= set(self.rows):
            raise ImportError(f"`{name}` is no literal table with the rows {', '.join(tables[name])}")
        return [self.frame, *(self.rows[key] for key in sorted(tables[name]))]


@dataclass(frozen=True)
class Module:
    """`free`: names used in another way than `name[key]`, `key in name` and `", ".join(name)`."""

    statements: tuple[Statement, ...]
    readable: bool
    lazy: bool  # has a module-level __getattr__
    free: frozenset[str]

    def parts(self, wanted: Collection[str] | None, tables: Mapping[str, Collection[str]]) -> list[Part]:
        """What counts for whoever imports the names `wanted`: what acts on import, and what these names lead to.

        All of it where `wanted` is None, or the file reaches its definitions in ways that cannot be followed.
        """
        if wanted is None or not self.readable or self.free & set(tables):
            return [statement.whole for statement in self.statements]
        names, found = set(wanted), dict[int, list[Part]]()
        while more := [at for at, one in enumerate(self.statements) if at not in found and _counts(one, names)]:
            for at in more:
                found[at] = self.statements[at].parts(tables)
                names |= {name for part in found[at] for name in part.names}
        return [part for at in sorted(found) for part in found[at]]


def _counts(statement: Statement, names: set[str]) -> bool:
    return not statement.binds or bool(statement.binds & names)


@cache
def read_module(text: str, name: str) -> Module:
    """The module with this source; `name` stands in a SyntaxError."""
    tree = ast.parse(text, name)
    tree.body = _bare(tree.body)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    nodes = _nodes(tree)
    return Module(
        statements=tuple(one for node in tree.body for one in _statements(node)),
        readable="__getattr__" not in functions and not any(map(_hides, nodes)),
        lazy="__getattr__" in functions,
        free=frozenset(_free(nodes)),
    )


def _bare(body: list[ast.stmt]) -> list[ast.stmt]:
    """Without texts that stand for themselves (docstrings) and without what only a type checker sees."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Expr) and _text(node.value) is not None:
            continue
        for block in (node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            for name in {"body", "orelse", "finalbody"} & set(block._fields):
                setattr(block, name, _bare(getattr(block, name)))
        found += node.orelse if isinstance(node, ast.If) and ast.unparse(node.test) in TYPING_ONLY else [node]
    return found


def _nodes(node: ast.AST) -> list[ast.AST]:
    """The node and all below it, as `ast.walk` has them but without load and store, in two thirds of the time."""
    found = [node]
    for each in found:
        for name in each._fields:
            value = getattr(each, name, None)
            if isinstance(value, list):
                found += [one for one in value if isinstance(one, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                found.append(value)
    return found


def _statements(node: ast.stmt) -> Iterator[Statement]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _imported(node)
        return
    binds, value = _bound(node), getattr(node, "value", None)
    if not (binds and isinstance(value, ast.Dict) and all(_text(key) is not None for key in value.keys)):
        yield Statement(_part(node), binds)
        return
    rows = {_text(key): _part(row) for key, row in zip(value.keys, value.values, strict=True)}
    whole = _part(node)
    value.keys, value.values = [], []
    yield Statement(whole, binds, _part(node), rows)


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[Statement]:
    """One statement a name."""
    for alias in node.names:
        bound = alias.asname or alias.name.split(".")[0]
        one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level)
        part = _part(ast.copy_location(one, node))
        yield Statement(part, frozenset() if bound == "*" else frozenset({bound}))


def _bound(node: ast.stmt) -> frozenset[str]:
    """The names that a definition binds; none for a statement that does, or may do, anything else."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        harmless = all(_decorator(each) in HARMLESS for each in node.decorator_list)
        return frozenset({node.name}) if harmless else frozenset()
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    targets = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    if isinstance(node, ast.Assign | ast.AnnAssign) and all(isinstance(target, ast.Name) for target in targets):
        return frozenset(target.id for target in targets)
    return frozenset()


def _decorator(node: ast.expr) -> str | None:
    return _identifier(node.func if isinstance(node, ast.Call) else node)


def _identifier(node: ast.AST) -> str | None:
    """The name that a node uses or defines, the last one of a dotted path."""
    for attribute in ("id", "attr", "name"):
        if isinstance(found := getattr(node, attribute, None), str):
            return found
    return None


def _hides(node: ast.AST) -> bool:
    """Whether definitions may be reached here in a way that their names do not show."""
    if isinstance(node, ast.Call) and _identifier(node.func) == "vars":
        return not node.args
    if isinstance(node, ast.Attribute) and node.attr == "modules":
        return _identifier(node.value) == "sys"
    return _identifier(node) in (HIDING if isinstance(node, ast.Name) else HIDING_ANYWHERE)


def _text(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _part(node: ast.AST) -> Part:
    nodes = _nodes(node)
    names = {name for each in nodes if isinstance(each, ast.Name | ast.Constant) for name in _names(each)}
    imports = [one for each in nodes if isinstance(each, ast.Import | ast.ImportFrom) for one in _imports(each)]
    return Part(ast.unparse(node), frozenset(names), tuple(imports))


def _names(node: ast.AST) -> Iterable[str]:
    """Also those in a text that can be read as an expression, as an annotation may be."""
    if isinstance(node, ast.Name):
        return [node.id]
    text = _text(node)
    if not text or text.isidentifier():
        return [text] if text else []
    try:
        return [each.id for each in _nodes(ast.parse(text, mode="eval")) if isinstance(each, ast.Name)]
    except (SyntaxError, ValueError):
        return []


def _imports(node: ast.AST) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield Import(node.lineno, module, tuple(alias.name for alias in node.names))


def _free(nodes: list[ast.AST]) -> set[str]:
    """See Module. A name imported under another one is free too."""
    by_key: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Subscript):
            by_key.add(id(node.value))
        elif isinstance(node, ast.Compare):
            pairs = zip(node.ops, node.comparators, strict=True)
            by_key |= {id(right) for how, right in pairs if isinstance(how, ast.In | ast.NotIn)}
        elif isinstance(node, ast.Call) and _identifier(node.func) in ("join", "did_you_mean"):
            by_key |= {id(argument) for argument in node.args}
    used = (node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    renamed = {node.name for node in nodes if isinstance(node, ast.alias) and node.asname not in (None, node.name)}
    return {node.id for node in used if id(node) not in by_key} | renamed
