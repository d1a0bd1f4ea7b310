"""Reading a config: YAML files with line numbers, values from the command line, and one line for each error."""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema

from sparsepo.config import Config
from sparsepo.config.error_lines import Location, error_lines
from sparsepo.runtime.errors import UserError, one_line
from sparsepo.runtime.user_code import relative_if_below

MAX_VALUES = 100_000  # aliases of aliases make a file of a kilobyte larger than any machine
TAG_ERRORS = (AttributeError, KeyError, IndexError, TypeError, OverflowError)
"""What PyYAML raises where a value does not fit its tag, as in `!!timestamp x`."""

NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?)")

Paths = str | Path | Sequence[str | Path]


def load_config(paths: Paths, overrides: Mapping[str, Any] | None = None) -> Config:
    """The checked config of a YAML file, or of several, where a later file replaces values of an earlier one.

    overrides: a nested mapping, or keys that spell the way down with `__`, as Snakemake's `--config` takes them:
    `tasks__planted__seeds`. Raises UserError with one line for each error: file, line, keys, what is allowed.
    """
    return load_with_owners(paths, overrides)[0]


def load_with_owners(paths: Paths, overrides: Mapping[str, Any] | None = None) -> tuple[Config, dict[str, str]]:
    """As `load_config`, and the name of the config that each task belongs to.

    Of several files that is the name in the last one with the task, so that configs given together make what each of
    them makes alone; a name from the command line is that of all. Without files `overrides` are the config, as of a
    module of another workflow.
    """
    merged, lines, owners, path = {}, {}, {}, "config"
    for path in [paths] if isinstance(paths, str | Path) else paths:
        raw, places = read_with_bases(Path(path))
        merged = merge_files(merged, raw)
        lines |= places
        if "name" in raw and isinstance(raw.get("tasks"), dict):
            owners |= dict.fromkeys(raw["tasks"], raw["name"])
    try:
        given = nested(overrides or {})
        if "extends" in given:
            raise UserError("--config extends=...: only a file extends another; give both files to --configfile")
        merged = merge(merged, given)
        config = Config.model_validate(merged).scaled()
    except RecursionError:
        raise UserError(f"{path}: nested too deeply, in the file or in --config") from None
    except ValidationError as error:
        raise UserError("\n".join(error_lines(error, merged, lines, given if lines else {}, str(path)))) from None
    return config, {task: config.name if "name" in given else owners.get(task, config.name) for task in config.tasks}


class _YamlLoader(yaml.SafeLoader):
    """YAML, of which JSON is a part: there two escapes, as `\\ud83d\\ude00`, stand for one character."""

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        text = super().construct_scalar(node)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise ValueError(f"line {node.start_mark.line + 1} has half of a surrogate pair") from None


def read_with_bases(path: Path, extending: Sequence[Path] = ()) -> tuple[dict[str, Any], dict[Location, str]]:
    """The mapping of a YAML file on top of that of the file that it `extends`, if any; and file:line of every value.

    extending: the files that led here. Raises UserError for files that extend each other in a circle.
    """
    raw, numbers = read_yaml(path)
    raw = locate_user_files(raw, path.parent)
    places = {location: f"{path}:{number}" for location, number in numbers.items()}
    if "extends" not in raw:
        return raw, places
    where, given = places.pop(("extends",)), raw.pop("extends")
    if not isinstance(given, str) or not given:
        raise UserError(f"{where}: extends: one file is expected, as in extends: ../base.yaml")
    base = path.parent / given
    chain = [*extending, path]
    if any(base.resolve() == file.resolve() for file in chain):
        raise UserError(f"{where}: extends: {' -> '.join(map(str, [*chain, base]))} is a circle")
    if not os.path.isfile(base):
        raise UserError(f"{where}: extends: no such file: {base} (relative to the folder of {path.name})")
    below, places_below = read_with_bases(base, chain)
    return merge_files(below, raw), places_below | places


def merge_files(below: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """One file on top of another; the plugins of both are loaded."""
    if isinstance(plugins := below.get("plugins"), list) and isinstance(raw.get("plugins"), list):
        raw = raw | {"plugins": [*plugins, *(plugin for plugin in raw["plugins"] if plugin not in plugins)]}
    return merge(below, raw)


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """The mapping in a YAML file, and the line of every value in it."""
    try:
        loader = _YamlLoader(Path(path).read_text(encoding="utf-8"))
        root = loader.get_single_node()
        lines = _line_numbers(root, str(path))  # before aliases are written out
        _refuse_numbers_of_other_bases(root, str(path))
        value = None if root is None else loader.construct_document(root)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (*TAG_ERRORS, yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or error
        reason = "a value does not fit its tag" if isinstance(error, TAG_ERRORS) else " ".join(str(reason).split())
        raise UserError(f"{where}: not valid YAML ({one_line(reason, 200)})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a mapping with 'name' and 'tasks' is expected")
    return value, lines


def locate_user_files(value: Any, folder: Path) -> Any:
    """A config whose names of the user's Python files, which are relative to its folder, lead there from here."""

    def located(key: str | None, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: located(name, each) for name, each in value.items()}
        if isinstance(value, list):
            return [located(key, each) for each in value]
        if key not in ("function", "plugins") or not isinstance(value, str):
            return value
        file, colon, name = value.rpartition(":") if key == "function" else (value, "", "")
        if not file.endswith(".py"):
            return value
        return relative_if_below(folder / file) + colon + name

    return located(None, value)


def _line_numbers(root: yaml.Node | None, path: str) -> dict[Location, int]:
    """The line of each key and item. Raises UserError for a key given twice, of which YAML would use the last."""
    lines: dict[Location, int] = {}
    for location, node in _nodes(root, ()):
        if len(lines) > MAX_VALUES:
            raise UserError(f"{path}: more than {MAX_VALUES:,} values, its aliases written out; no config needs these")
        line = node.start_mark.line + 1
        if location in lines:
            keys = one_line(".".join(map(str, location)), 200)
            raise UserError(f"{path}:{line}: {keys} is given twice, also in line {lines[location]}")
        lines[location] = line
    return lines


def _refuse_numbers_of_other_bases(root: yaml.Node | None, path: str) -> None:
    """Raise UserError for `010`, which YAML 1.1 reads as 8, and `1:30`, which it reads as 90."""
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            nodes += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif node.style is None and node.tag in NUMBER_TAGS and OTHER_BASE.fullmatch(node.value):
            where, text = f"{path}:{node.start_mark.line + 1}", one_line(node.value, 60)
            meant = "base 60" if ":" in text else "octal"
            raise UserError(f"{where}: {text} is a number in {meant} to YAML; write a decimal number, or quote a text")


def _nodes(node: yaml.Node | None, location: Location) -> Iterator[tuple[Location, yaml.Node]]:
    """Every key of a mapping and item of a list below a node, with its location."""
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            yield (*location, str(key.value)), key
            yield from _nodes(child, (*location, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield (*location, index), child
            yield from _nodes(child, (*location, index))


def nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{'a__b': 1} -> {'a': {'b': 1}}; nested mappings stay."""
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        for part in reversed(str(key).split("__")):
            value = {part: value}
        result = merge(result, value)
    return result


def merge(base: Any, over: Any) -> Any:
    """`over` on top of `base`: mappings are merged key by key, anything else is replaced."""
    if isinstance(base, dict) and isinstance(over, Mapping):
        return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}
    return over


class _WithoutTitles(GenerateJsonSchema):
    """pydantic's JSON schema without a title for each key, which would only repeat it."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def config_schema() -> dict[str, Any]:
    return Config.model_json_schema(schema_generator=_WithoutTitles)


def main() -> None:
    """`python -m sparsepo.config.loading FILE...` checks configs; `--schema` prints the JSON schema."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--schema", action="store_true")
    options = parser.parse_args()
    if options.schema:
        print(json.dumps(config_schema(), indent=2))
    try:
        for path in options.files:
            load_config(path)
            print(f"{path}: good")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
