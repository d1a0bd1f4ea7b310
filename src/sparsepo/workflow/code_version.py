"""The code that a job runs, as a short hash that Snakemake compares."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from sparsepo.config import TaskConfig
from sparsepo.config.online import judge_of_rounds, reward_of
from sparsepo.config.runs import find_run, oracle_selected_runs
from sparsepo.methods.registry import DEFAULT_INSPECTION_METHOD, METHODS, looking_into_pairs
from sparsepo.workflow.source_index import Import, Module, Part, read_module

ROOT = Path(__file__).resolve().parents[3]

# Settings reach the stages by value, as parameters of their rules.
BY_VALUE = "src/sparsepo/config"

Tables = Mapping[str, Collection[str]]
"""Table -> the rows that a job uses; `sparsepo.objective.losses.LOSSES`, or without dots a table of the script."""
Names = frozenset[str] | None
"""What is asked of a file; None: all of it."""


class Tree:
    """The scripts and the package under `root`, each file read once."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self._module = cache(self._read)
        self._files = cache(self._files_at)
        self._targets = cache(self._targets_of)

    def version(self, script: str, tables: Tables) -> str:
        """See code_version."""
        digest = hashlib.sha256()
        for path, parts in sorted(self._counted(self.root / script, tables).items()):
            code = "\n".join(part.code for part in parts)
            digest.update(f"{path.relative_to(self.root)}\n{code}\n".encode())
        return digest.hexdigest()[:12]

    def _counted(self, script: Path, tables: Tables) -> dict[Path, list[Part]]:
        """What counts of the script and of the package files that it leads to, directly or not."""
        by_file = self._by_file(tables, script)
        asked: dict[Path, Names] = {}
        counted: dict[Path, list[Part]] = {}
        todo: list[tuple[Path, Names]] = [(script, frozenset())]
        while todo:
            path, names = todo.pop()
            own, before = by_file.get(path, {}), asked.get(path, frozenset())
            now = None if not own or names is None or before is None else before | names
            if path in asked and now == before:
                continue
            asked[path], module = now, self._module(path)
            with self._placed(path):
                counted[path] = module.parts(now, own)
            gone_through = {target for target in by_file if module.free & set(by_file[target])}
            for one in {one for part in counted[path] for one in part.imports}:
                with self._placed(path, one):
                    targets = self._targets(one)
                todo += [(target, None if target in gone_through else wanted) for target, wanted in targets]
        return counted

    def _by_file(self, tables: Tables, script: Path) -> dict[Path, dict[str, Collection[str]]]:
        """File -> its tables, by their own names."""
        found: dict[Path, dict[str, Collection[str]]] = {}
        for place, rows in tables.items():
            module, _, name = place.rpartition(".")
            path = self.root.joinpath("src", *module.split(".")).with_suffix(".py") if module else script
            found.setdefault(path, {})[name] = rows
        return found

    def _targets_of(self, one: Import) -> list[tuple[Path, Names]]:
        """Files that an import runs, with what it asks of each; importing a.b.c also runs a and a.b."""
        if one.module.startswith("."):
            raise ImportError("a relative import is not tracked: write the full name of the module")
        *parents, folder = accumulate(one.module.split("."), Path.joinpath, initial=self.root / "src")
        submodules = {name: self._files(folder / name) for name in one.names}
        if self._is_lazy_package(folder / "__init__.py") and not (submodules and all(submodules.values())):
            sentence = f"lazy attributes of `{one.module}` are not tracked: import from the module that holds them"
            raise ImportError(sentence)
        asked = None if not one.names or "*" in one.names else frozenset(one.names)
        whole = [*parents[1:], *(folder / name for name in submodules)]
        found = [(path, None) for base in whole for path in self._files(base)]
        found += [(path, asked) for path in self._files(folder)]
        return [(path, names) for path, names in found if not self._is_left_out(path)]

    def _files_at(self, base: Path) -> list[Path]:
        candidates = (base.with_name(f"{base.name}.py"), base / "__init__.py")
        return [path for path in candidates if path.is_file()]

    def _is_left_out(self, path: Path) -> bool:
        return self.root / BY_VALUE in path.parents or self._is_lazy_package(path)

    def _is_lazy_package(self, path: Path) -> bool:
        return path.name == "__init__.py" and path in self._files(path.parent) and self._module(path).lazy

    @contextmanager
    def _placed(self, path: Path, one: Import | None = None) -> Iterator[None]:
        """An ImportError says where."""
        try:
            yield
        except ImportError as error:
            place = str(path.relative_to(self.root)) + (f", line {one.line}" if one else "")
            raise ImportError(f"{place}: {error}") from None

    def _read(self, path: Path) -> Module:
        return read_module(path.read_text(encoding="utf-8"), str(path))


def code_version(script: str, tables: Tables | None = None, root: Path = ROOT) -> str:
    """Hash a workflow script and every module of the package that it imports, however indirectly.

    Snakemake tracks the text of a shell command, not the code behind it. As a rule parameter this
    hash makes it rerun a stage when the code of that stage changed, and only then: comments,
    docstrings, layout and file times do not count, so tidying up never retrains a model.

    A file with one of `tables`, literal dicts of alternatives, is read definition by definition: the
    rows that are not named do not count, nor does what only they lead to, in this file or by imports
    into others. All that cannot be followed counts (see `definitions`). Any other file counts whole.

    Two kinds of file are left out. `config/`: its resolved settings are parameters of the rules
    by value, so a changed default is seen as the value it is, by the stages that use it. And the
    `__init__.py` of a package with lazy attributes (a module-level `__getattr__`): it only says
    where a name lives, and tracked code may not import through it.

    Raises ImportError, naming file and line, for an import that cannot be followed by reading (a
    relative one, a lazy attribute), and for a table that is not literal or lacks a row.
    """
    return Tree(root).version(script, tables or {})


Rows = dict[str, tuple[str, ...]]
"""Table, as `codeversion.Tables` names it -> the rows that a job uses."""


def _of_method(method: str, given: Mapping[str, Any]) -> Rows:
    """Of the table of methods no row: what it says is in the settings, by value. What is allowed changes no result."""
    row = METHODS[method]
    mask = row.mask(given)
    return {
        "sparsepo.methods.registry.METHODS": (),
        "sparsepo.methods.parameters.PARAMETERS": (),
        "sparsepo.methods.method.MASKS": () if mask == "none" else (mask,),
        "sparsepo.objective.losses.LOSSES": (row.loss,),
        "sparsepo.objective.mask_builder.HEADS": () if mask == "none" else (mask,),
        "sparsepo.training.step_statistics.STATISTICS": (row.statistic,) if row.statistic else (),
    }


def _scorers(scorers: Iterable[Any]) -> Rows:
    return {"sparsepo.evaluation.scorers.SCORERS": tuple({scorer.kind for scorer in scorers if scorer})}


def _formats(task: TaskConfig) -> Rows:
    """Only data that exist have a format."""
    used = (task.preferences.source,) if task.data.source == "preferences" else ()
    one_object = tuple(source for source in used if source == "rated_posts")
    return {"sparsepo.data.preference_formats.FORMATS": used, "sparsepo.data.preference_formats.ONE_OBJECT": one_object}


def _data(task: TaskConfig, run: str, kind: str) -> Rows:
    first = {"FIRST": ("problems",) if task.data.source == "problems" else ()}
    return first | {"sparsepo.data.sources.SOURCES": (task.data.source,)} | _formats(task)


def _preferences(task: TaskConfig, run: str, kind: str) -> Rows:
    source = task.preferences.source
    makers = {"MAKERS": (source,) if source in ("generated", "executed") else ()}
    return makers | _scorers([getattr(task.preferences, "scorer", None)]) | _formats(task)


def _reference(task: TaskConfig, run: str, kind: str) -> Rows:
    return {
        "sparsepo.methods.registry.METHODS": (),
        "sparsepo.methods.parameters.PARAMETERS": (),
        "sparsepo.objective.losses.LOSSES": (),
        "sparsepo.training.step_statistics.STATISTICS": (),
        "sparsepo.methods.method.MASKS": (),
        "sparsepo.objective.mask_builder.HEADS": ("activations",) if kind.startswith("weights~") else (),
    }


def _selection(task: TaskConfig, run: str, kind: str) -> Rows:
    """Of the methods whose runs it shows, the shares of tokens that they keep if a run says none."""
    methods = {path.split("/")[0] for path in oracle_selected_runs(task)}
    return _reference(task, run, "") | {"sparsepo.methods.registry.METHODS": tuple(sorted(methods))}


def _train(task: TaskConfig, run: str, kind: str) -> Rows:
    made = find_run(task, run)
    ends = METHODS[made.method].trainer == "rounds" and task.evaluation.scorer is not None
    measured = task.training.frontier_every > 0 or ends
    meters = {"METERS": ("frontier",) if measured else ()}
    return meters | _of_method(made.method, made.hyper) | _scorers([task.evaluation.scorer] if measured else [])


def _sample_round(task: TaskConfig, run: str, kind: str) -> Rows:
    return _judges(judge_of_rounds(task)) | _reference(task, run, "logps")


def _train_on_policy(task: TaskConfig, run: str, kind: str) -> Rows:
    """No loss of pairs, no mask; the scorer that rewards, and that of the frontier."""
    measured = task.training.frontier_every > 0
    row = METHODS[find_run(task, run).method]
    rewarded = "beta" in row.hyper or not task.training.on_policy.words
    scorers = [reward_of(task)] * rewarded + [task.evaluation.scorer] * measured
    return {
        "METERS": ("frontier",) if measured else (),
        "sparsepo.methods.registry.METHODS": (),
        "sparsepo.methods.parameters.PARAMETERS": (),
        "sparsepo.methods.method.MASKS": (),
        "sparsepo.objective.losses.LOSSES": (),
        "sparsepo.objective.mask_builder.HEADS": (),
        "sparsepo.training.step_statistics.STATISTICS": (),
    } | _scorers(scorers)


def _evaluate(task: TaskConfig, run: str, kind: str) -> Rows:
    made = None if run == "sft" else find_run(task, run)
    looks = (looking_into_pairs(made.method), made.hyper) if made else (DEFAULT_INSPECTION_METHOD, {})
    return _of_method(*looks) | _scorers([task.evaluation.scorer, *task.evaluation.extra_scorers.values()])


def _wins(task: TaskConfig, run: str, kind: str) -> Rows:
    return _judges(task.evaluation.win_rate)


def _judges(judge: Any) -> Rows:
    return {"sparsepo.evaluation.judges.JUDGES": (judge.kind,)} | _scorers([getattr(judge, "scorer", None)])


ALTERNATIVES = {
    "data": _data,
    "preferences": _preferences,
    "reference": _reference,
    "oracle_pairs": _reference,
    "score_tokens": _reference,
    "selection": _selection,
    "train": _train,
    "sample_round": _sample_round,
    "finish_rounds": _reference,
    "train_on_policy": _train_on_policy,
    "evaluate": _evaluate,
    "wins": _wins,
}
"""Stage, which is also the name of its script -> (task, run, kind of a reference cache) -> the rows that a job uses."""
