"""The code that a job runs, as a short hash that Snakemake compares."""

import ast
import hashlib
import json
from collections.abc import Collection, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from sparsepo import public_modules
from sparsepo.methods.plugins import registered_files
from sparsepo.runtime.user_code import find_source, imported_names, parse, used_files
from sparsepo.workflow.source_index import ON_IMPORT, Code, Import, Module

ROOT = Path(__file__).resolve().parents[3]
EVERYTHING = "*"

LEFT_OUT = (
    "sparsepo.config.",
    "sparsepo.runtime.",
    "sparsepo.workflow.",
    "sparsepo.methods.parameters.",
    "sparsepo.methods.plugins.",
    "sparsepo.objective.own_loss.",
)
"""What does not count: settings reach a job by value, runtime/ starts, watches and records jobs, and checks refuse."""

CHOSEN_BY = {
    "sparsepo.methods.registry.METHODS": "",  # no row: what it says stands in the settings
    "sparsepo.methods.method.MASKS": "mask",
    "sparsepo.objective.losses.*": "loss",
    "sparsepo.training.step_statistics.STATISTICS": "statistic",
    "sparsepo.data.sources.SOURCES": "source",
    "sparsepo.data.preference_formats.FORMATS": "source",
    "sparsepo.evaluation.scorers.SCORERS": "kind",
    "sparsepo.evaluation.judges.JUDGES": "kind",
    "workflow_scripts.build_preferences.MAKERS": "source",
    "workflow_scripts.score_tokens.TOKEN_SCORES": "score",
    "sparsepo.evaluation.frontier.frontier_evaluator": "frontier_every",
    "sparsepo.evaluation.sandbox.check_sandbox": "execution",
}
"""Table -> the setting that names its row: other rows do not count, nor does what only they lead to. Module.* -> the
setting that names the definition of the module that a job uses. Function -> the setting without which no job calls it:
it counts where that is given, and neither null nor 0."""
SETTINGS = frozenset(CHOSEN_BY.values())

Choices = frozenset[tuple[str, str]]
"""(setting, value) of the settings in CHOSEN_BY that a job has; the value is empty where it is no text."""
Place = tuple[str, str]
"""A module and a name in it; ON_IMPORT: what the module does when it is imported; EVERYTHING: all of it."""

_parsed = cache(Module)


class SourceTree:
    """The scripts and the package under `root`, each file read once."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self._path, self._module, self._uses = cache(self._find), cache(self._read), cache(self._read_place)
        self.version = cache(self._hash)  # a file of the user does not change while a plan is made

    def _hash(self, script: str, chosen: Choices = frozenset(), user_files: tuple[Path, ...] = ()) -> str:
        digest = hashlib.sha256()
        for (module, name), parts in sorted(self.counted(script, chosen, user_files).items()):
            digest.update("".join(f"{module}.{name}\n{part.text}\n" for part in parts if part.text).encode())
        for file in user_files:
            digest.update(f"{file.name}\n{ast.unparse(parse(file))}\n".encode())
        return digest.hexdigest()[:12]

    def counted(self, script: str, chosen: Choices, user_files: tuple[Path, ...] = ()) -> dict[Place, list[Code]]:
        """The code of every definition that the script leads to, and of what modules do when they are imported.

        user_files: code of the user that the job runs, of which the definitions of the package that it imports count.
        """
        counted: dict[Place, list[Code]] = {}
        rows = {place: frozenset(value for key, value in chosen if key == name) for place, name in CHOSEN_BY.items()}
        todo = [(script.removesuffix(".py").replace("/", "."), name) for name in (ON_IMPORT, "__main__")]
        todo += [place for file in user_files for place in imported_places(file)]
        while todo:
            place = todo.pop()
            if place not in counted and self._path(place[0]):
                counted[place], places = self._uses(*place, rows.get(".".join(place)))
                todo += places
        return counted

    def _read_place(self, module: str, name: str, rows: frozenset[str] | None) -> tuple[list[Code], set[Place]]:
        """The code that binds a name, and the places that it leads to."""
        source = self._module(module)
        parts = source.code(name, rows)
        places = {(module, other) for part in parts for other in part.names & source.statements.keys()}
        places |= {place for part in parts for one in part.imports for place in self._targets(module, one)}
        if name == ON_IMPORT:
            places |= {(target, ON_IMPORT) for one in source.imports for target, _ in self._targets(module, one)}
        elif name == EVERYTHING:
            places |= {(module, other) for other in source.statements if rows is None or other in rows}
        return parts, places

    def _targets(self, module: str, one: Import) -> Iterator[Place]:
        """What an import asks for: a name of another module or all of it, and what the packages above do."""
        line = f"{self._path(module).relative_to(self.root)}, line {one.line}"
        if one.module.startswith("."):
            raise ImportError(f"{line}: a relative import is not tracked: write the full name of the module")
        target, name = one.module, one.name or EVERYTHING
        if one.name and self._path(f"{target}.{name}"):
            target, name = f"{target}.{name}", EVERYTHING
        if not self._path(target):
            return
        if "__getattr__" in self._module(target).statements:
            raise ImportError(f"{line}: lazy attributes of `{target}` are not tracked: import from where they are")
        yield target, name
        yield from ((package, ON_IMPORT) for package in accumulate(target.split("."), "{}.{}".format))

    def _find(self, module: str) -> Path | None:
        """The file of a module that counts."""
        if f"{module}.".startswith(LEFT_OUT):
            return None
        stem = module.replace(".", "/")
        files = [
            self.root / folder / f"{stem}{end}"
            for folder in ("src", ".", "workflow_scripts")
            for end in (".py", "/__init__.py")
        ]
        return next(filter(Path.is_file, files), None)

    def _read(self, module: str) -> Module:
        path = self._path(module)
        return _parsed(path.read_text(encoding="utf-8"), str(path))


TREE = SourceTree()


def imported_places(file: Path) -> Iterator[Place]:
    """The definitions of the package that a file of the user imports."""
    for name in imported_names(parse(file)):
        module, _, attribute = name.rpartition(".")
        if module == "sparsepo":
            yield public_modules().get(attribute, module), attribute
        elif module.startswith("sparsepo."):
            yield module, attribute


def _values(settings: str, keys: Collection[str]) -> set[tuple[str, str]]:
    """(key, value) of these keys wherever in the JSON of settings; the value is empty where it is no text."""
    given: set[tuple[str, str]] = set()

    def collect(pairs: list[tuple[str, Any]]) -> bool:
        chosen = [(key, value) for key, value in pairs if value and key in keys]
        given.update((key, value if isinstance(value, str) else "") for key, value in chosen)
        return bool(pairs)

    json.loads(settings, object_pairs_hook=collect)
    return given


def choices(settings: str) -> Choices:
    """What the settings of a job, as JSON, say of the settings in CHOSEN_BY, wherever in them it stands."""
    return frozenset(_values(settings, SETTINGS))


def user_files(settings: str) -> tuple[Path, ...]:
    """The files of the user's functions, masks and methods that settings name, with those beside that they import."""
    files: set[Path] = set()
    for key, value in _values(settings, {"function", "mask", "method"}):
        is_function = key == "function" and value
        files.update(used_files(find_source(value.rpartition(":")[0])) if is_function else registered_files(key, value))
    return tuple(sorted(files))


def code_version(script: str, settings: str = "{}") -> str:
    """The hash of the code that `script`, a path below ROOT, runs with these settings, given as JSON.

    Snakemake tracks the text of a shell command, not the code behind it. As a parameter of a rule this hash makes it
    rerun a job when the code that computes its results changed. It counts each definition that the script leads to by
    the names in it, in any module but those of LEFT_OUT, and of the tables in CHOSEN_BY the rows that the settings
    choose. What only a person reads does not count (see Code), so that another wording never trains a model again. Of
    code of the user the whole file counts, without comments, and the files beside it that it imports.

    Raises ImportError, naming file and line, for an import that cannot be followed by reading: a relative one, or one
    of a lazy attribute.
    """
    return TREE.version(script, choices(settings), user_files(settings))
