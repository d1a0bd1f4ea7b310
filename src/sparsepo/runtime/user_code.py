"""Code of the user, named `file.py:function` or `package.module:function`: read in a plan, imported and run in a job.

A plan runs no function of the user and imports no file that it only names: it reads the source.
"""

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, NamedTuple

from sparsepo.runtime.errors import UserError, did_you_mean, is_disk_full, one_line

INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
PACKAGE = Path(__file__).resolve().parents[1]
ALL_COLUMNS = "*"

_imported: dict[Path, ModuleType | None] = {}
"""The files of user code that this process has imported; None while one is being imported."""


# --- reading, without running


def relative_if_below(path: Path) -> str:
    """A path relative to the working directory if it is below, so that results can move with their folder."""
    absolute = os.path.abspath(path)
    return os.path.relpath(absolute) if Path(absolute).is_relative_to(Path.cwd()) else absolute


def source_file(source: str) -> Path | None:
    """The file of `file.py` or of the module `package.module`, found without importing a package; None if it has none.

    A file is looked for in the working directory.
    """
    if source.endswith(".py"):
        return Path(source) if Path(source).is_file() else None
    folders: Any = None
    name = ""
    for part in source.split("."):
        name = f"{name}.{part}" if name else part
        spec = importlib.machinery.PathFinder.find_spec(name, folders)
        if spec is None:
            return None
        folders = spec.submodule_search_locations or ()
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


@cache
def _parse_version(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def parse(path: Path) -> ast.Module:
    """The statements of a file; each version of it is parsed once. Raises UserError for one that is not Python."""
    try:
        return _parse_version(path, path.stat().st_mtime_ns)
    except (SyntaxError, ValueError) as error:
        place = f"{path}:{error.lineno}" if getattr(error, "lineno", None) else path
        raise UserError(f"{place}: not valid Python ({one_line(getattr(error, 'msg', None) or str(error))})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def find_source(source: str) -> Path:
    """The file of a source. Raises UserError if there is none, or it is not Python."""
    path = source_file(source)
    if path is None and source.endswith(".py"):
        raise UserError(f"no such file: {source} (relative to the folder of the config)")
    if path is None:
        raise UserError(f"no module '{source}' is installed; a file beside the config is named with its ending, .py")
    parse(path)
    return path


def definitions(statements: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Name -> the statement of a module that binds it last, also within `if`, `try` and `with`."""
    names: dict[str, ast.stmt] = {}
    for node in statements:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names[name] = node
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name.split(".")[0]: node for alias in aliases}
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                parts = [part for target in targets for part in getattr(target, "elts", [target])]
                names |= {part.id: node for part in parts if isinstance(part, ast.Name)}
            case ast.If() | ast.Try() | ast.With():
                blocks = [getattr(node, block, []) for block in ("body", "orelse", "finalbody")]
                blocks += [handler.body for handler in getattr(node, "handlers", [])]
                names |= {name: inner for block in blocks for name, inner in definitions(block).items()}
    return names


def find_function(reference: str) -> ast.stmt:
    """The statement that defines `file.py:function`. Raises UserError if it is not there, or is no plain function."""
    source, colon, name = reference.rpartition(":")
    if not colon or not source or not name.isidentifier():
        raise UserError(f"must be file.py:function or package.module:function, not '{one_line(reference, 100)}'")
    path = find_source(source)
    names = definitions(parse(path).body)
    if name not in names and "*" not in names:
        functions = [each for each, node in names.items() if isinstance(node, ast.FunctionDef)]
        raise UserError(f"{path} has no function '{name}'; {did_you_mean(name, functions or ['none'])}")
    node = names.get(name, names.get("*"))
    if isinstance(node, ast.AsyncFunctionDef):
        raise UserError(f"{path}:{node.lineno}: '{name}' is asynchronous: write def, not async def")
    return node


class FunctionParameters(NamedTuple):
    """What a function is called with: how many values by place, and the columns that it asks for by name.

    columns: parameters after the first `given`; `*` if it takes any (`**columns`). needed: those without a default.
    """

    columns: tuple[str, ...]
    needed: tuple[str, ...]


def parameters_of(reference: str, given: tuple[str, ...]) -> FunctionParameters:
    """The parameters of `file.py:function` behind those that every such function has, by reading its signature.

    Of what is not a `def` in that file (a class, an import) any columns. Raises UserError for another number of values.
    """
    node = find_function(reference)
    if not isinstance(node, ast.FunctionDef):
        return FunctionParameters((ALL_COLUMNS,), ())
    own, path = node.args, source_file(reference.rpartition(":")[0])
    places, extra, with_default = names_of(own)
    rest = places[len(given) :]
    too_few = len(places) < len(given) and own.vararg is None
    is_swapped = any(name in given and place != given.index(name) for place, name in enumerate([*places, *extra]))
    if too_few or is_swapped or any(each.arg in rest for each in own.posonlyargs):
        wanted = f"({', '.join(given)}) in this order, and columns of the data by name" if given else "no arguments"
        raise UserError(f"{path}:{node.lineno}: '{node.name}' must take {wanted}")
    columns = (*rest, *extra)
    needed = tuple(name for name in columns if name not in with_default)
    return FunctionParameters((*columns, *[ALL_COLUMNS] * (own.kwarg is not None)), needed)


def names_of(arguments: ast.arguments) -> tuple[list[str], list[str], set[str]]:
    """The names of a signature that are given by place, by keyword alone, and those of both that have a default."""
    places = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    keywords = [each.arg for each in arguments.kwonlyargs]
    with_default = set(places[len(places) - len(arguments.defaults) :])
    with_default |= {name for name, default in zip(keywords, arguments.kw_defaults, strict=True) if default}
    return places, keywords, with_default


def used_files(path: Path) -> Iterator[Path]:
    """A file of the user and, in turn, the files beside it that it imports."""
    path, todo, seen = path.resolve(), [path.resolve()], set()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        yield file
        files = (_file_beside(file.parent, name) for name in imported_names(parse(file)))
        todo += filter(None, files)


def imported_names(tree: ast.Module) -> list[str]:
    """The modules that a file imports, anywhere in it; a relative one begins with dots."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names += [module, *(f"{module.rstrip('.') and module + '.'}{alias.name}" for alias in node.names)]
    return names


def _file_beside(folder: Path, name: str) -> Path | None:
    stem = folder / name.lstrip(".").replace(".", "/")
    files = stem.with_name(f"{stem.name}.py"), stem / "__init__.py"
    return next((file.resolve() for file in files if file.is_file()), None)


# --- running


def import_source(source: str) -> ModuleType:
    """The module of `file.py` or `package.module`, imported once in a process.

    A file may import others of its folder, where no installed package has their name. Raises UserError as
    `find_source`, and for an error within, whose traceback is printed.
    """
    path = find_source(source).resolve()
    if _imported.get(path) is None:
        _imported[path] = None
        try:
            _imported[path] = _import_file(path) if source.endswith(".py") else importlib.import_module(source)
        except (Exception, SystemExit) as error:
            named = user_error(error)
            if named is None:
                raise
            print(named[1], end="", file=sys.stderr)
            raise UserError(named[0]) from None
    return _imported[path]


def _import_file(path: Path) -> ModuleType:
    """Under its own name if another file would find it by that, else under one that no other module has."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    imported = [module for module in sys.modules.values() if getattr(module, "__file__", None) == str(path)]
    if imported:
        return imported[0]
    by_name = importlib.machinery.PathFinder.find_spec(path.stem)
    if by_name and by_name.origin and Path(by_name.origin).resolve() == path and path.stem not in sys.modules:
        return importlib.import_module(path.stem)
    name = f"{path.stem}_{sha256(bytes(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_object(reference: str) -> Any:
    """What `file.py:name` is, or the full dotted name of a definition of the package. Raises UserError without one."""
    if ":" not in reference:
        return resolve_name(reference)
    source, _, name = reference.rpartition(":")
    module = import_source(source)
    if not hasattr(module, name):
        raise UserError(f"{module.__file__} has no '{name}'")
    return getattr(module, name)


def load_function(reference: str) -> Callable[..., Any]:
    """The function `file.py:function`. Raises UserError if it is not there, or cannot be called."""
    function = load_object(reference)
    if not callable(function):
        raise UserError(f"{reference} is no function, but of type {type(function).__name__}")
    return function


# --- errors


def user_error(error: BaseException) -> tuple[str, str] | None:
    """(one line, traceback) of an error that was raised in code of the user; None if it was not.

    The line names file, line and text of the innermost statement of the user; the traceback begins with the user's
    first statement and leaves out those of the package.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_inside(frame.filename)]
    own = [place for place, frame in enumerate(frames) if _is_users(frame.filename)]
    if isinstance(error, UserError) or not isinstance(error, Exception | SystemExit) or is_disk_full(error) or not own:
        return None
    last, text = frames[own[-1]], str(error).strip()
    reason = type(error).__name__ + (f": {text}" if text else "")
    line = f"{last.filename}:{last.lineno}: in {last.name}: `{one_line((last.line or '').strip(), 160)}`: {reason}"
    shown = "".join(traceback.format_list(frames[own[0] :]))
    return one_line(line), f"Traceback of your code (most recent call last):\n{shown}{reason}\n"


def _is_users(filename: str) -> bool:
    """Whether it is a file that was named, or lies beside one of those that are not installed."""
    path = Path(filename).resolve()
    beside = {file.parent for file in _imported if not str(file).startswith(INSTALLED)}
    return path in _imported or path.parent in beside


def _is_inside(filename: str) -> bool:
    return PACKAGE in Path(filename).resolve().parents or filename.startswith("<frozen importlib")
