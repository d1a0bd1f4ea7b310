"""Reading a config file: YAML with line numbers, values from the command line, and every mistake in one sentence."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from sparsepo.config import Config
from sparsepo.config.renamed import renamed_key_error
from sparsepo.runtime.errors import UserError, did_you_mean, one_line, shown

Place = tuple[str | int, ...]

MOST_SENTENCES = 20
MOST_PLACES = 100_000  # aliases of aliases make a file of a kilobyte larger than any machine
TAGGED = (AttributeError, KeyError, IndexError, TypeError, OverflowError)
"""What PyYAML raises where a value does not fit its tag, as in `!!timestamp x`."""


def load_config(path: str | Path | Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """The checked config of a YAML file (or of several, the later on top), single values replaced by `overrides`.

    An override is a nested mapping, or a key that spells the way down with `__`, as Snakemake's `--config` takes them:
    `tasks__planted__seeds`. Raises UserError with one sentence a mistake: line, place, what was given, what is allowed.
    """
    return load_owned(path, overrides)[0]


def load_owned(
    path: str | Path | Sequence[str | Path], overrides: Mapping[str, Any] | None = None
) -> tuple[Config, dict[str, str]]:
    """As `load_config`, and the name of the config that each task belongs to.

    Of several files that is the name in the last one which speaks of the task, so that configs given together make what
    each of them makes alone; a name from the command line is that of all.
    """
    merged, where, owners = {}, {}, {}
    for each in [path] if isinstance(path, str | Path) else path:
        raw, lines = read_yaml(each)
        merged = merge(merged, raw)
        where |= {place: f"{each}:{line}" for place, line in lines.items()}
        if "name" in raw and isinstance(raw.get("tasks"), dict):
            owners |= dict.fromkeys(raw["tasks"], raw["name"])
    try:
        given = nested(overrides or {})
        merged = merge(merged, given)
        config = Config.model_validate(merged).scaled()
        named = {} if "name" in given else owners
        return config, {task: named.get(task, config.name) for task in config.tasks}
    except RecursionError:
        raise UserError(f"{each}: nested too deeply, in the file or in --config") from None
    except ValidationError as error:
        details = error.errors()
        sentences = [_sentence(detail, merged, where, given, str(each)) for detail in details[:MOST_SENTENCES]]
        sentences += [f"{each}: and {len(details) - MOST_SENTENCES} more"] * (len(details) > MOST_SENTENCES)
        raise UserError("\n".join(dict.fromkeys(sentences))) from None


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """The mapping in a YAML file, and the line of every place in it."""
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        root = loader.get_single_node()
        lines = _numbered(root, str(path))  # before aliases are written out
        value = None if root is None else loader.construct_document(root)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (*TAGGED, yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or error
        reason = "a value does not fit its tag" if isinstance(error, TAGGED) else " ".join(str(reason).split())
        raise UserError(f"{where}: not valid YAML ({one_line(reason, 200)})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a mapping with 'name' and 'tasks' is expected")
    return value, lines


def _numbered(root: yaml.Node | None, path: str) -> dict[Place, int]:
    """The line of each key and item; refuses a key given twice, of which YAML would keep the last."""
    lines: dict[Place, int] = {}
    _number(root, (), lines, path)
    return lines


def _number(node: yaml.Node | None, place: Place, lines: dict[Place, int], path: str) -> None:
    if len(lines) > MOST_PLACES:
        raise UserError(f"{path}: more than {MOST_PLACES:,} values, its aliases written out; no config needs so many")
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            here = (*place, str(key.value))
            if here in lines:
                dotted = one_line(".".join(map(str, here)), 200)
                raise UserError(
                    f"{path}:{key.start_mark.line + 1}: {dotted} is given twice, also in line {lines[here]}"
                )
            lines[here] = key.start_mark.line + 1
            _number(child, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            lines[(*place, index)] = child.start_mark.line + 1
            _number(child, (*place, index), lines, path)


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


def _sentence(
    detail: Mapping[str, Any], raw: Any, origin: Mapping[Place, str], given: Mapping[str, Any], path: str
) -> str:
    """One pydantic error as `file:line: place: what is wrong`."""
    context = detail.get("ctx", {})
    place = _yaml_place(detail["loc"], raw) + tuple(context.get("place", ()))
    if detail["type"] == "union_tag_invalid":
        place += (context["discriminator"].strip("'"),)
    known = next((n for n in range(len(place), 0, -1) if place[:n] in origin), 0)
    overridden = _depth(place, given)
    where = origin[place[:known]] if known else path
    if overridden > known or overridden == len(place) > 0:
        where = "--config"
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(str(part))}" for part in place)
    dotted = one_line(dotted.lstrip("."), 200)
    return f"{where}: {dotted or 'the config'}: {one_line(_wording(detail, context))}"


def _key(name: str) -> str:
    """A key as people write it, in quotes where nobody would see it otherwise."""
    return one_line(name, 64) if name and name == name.strip() else shown(name, 64)


def _yaml_place(loc: Place, raw: Any) -> Place:
    """The location without the union tags that pydantic puts in, one below each section with a source or a kind."""
    place: list[str | int] = []
    tagged = False
    for at, part in enumerate(loc):
        if not tagged and isinstance(raw, Mapping) and raw.get("source", raw.get("kind")) == part:
            tagged = True
            continue
        tagged = False
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            if at < len(loc) - 1 or part == "[key]":
                continue
        place.append(part)
    return tuple(place)


def _depth(place: Place, given: Any) -> int:
    """How many parts of a place the overrides spell out; all of them below a value that they replace."""
    for depth, part in enumerate(place):
        if not isinstance(given, Mapping):
            return len(place)
        if part not in given:
            return depth
        given = given[part]
    return len(place)


def _wording(detail: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    kind, given = detail["type"], detail["input"]
    if kind == "sentence":
        return context["sentence"]
    if kind == "extra_forbidden":
        key, allowed = str(detail["loc"][-1]), fields_at(detail["loc"][:-1])
        return renamed_key_error(key, allowed) or f"unknown key; {did_you_mean(key, allowed)}"
    if kind == "missing":
        return "is missing; it has no default"
    if kind == "union_tag_invalid":
        allowed = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"'{one_line(context['tag'], 64)}' is unknown; {did_you_mean(context['tag'], allowed)}"
    if kind == "union_tag_not_found":
        return f"needs a key {context['discriminator']} that says what kind it is"
    if kind == "string_pattern_mismatch":
        return f"{shown(given)} is not a name: letters, digits, '.', '-' and single '_'"
    if kind == "too_short":
        return "is empty; give at least one"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"must be a mapping, not {shown(given)}"
    message = detail["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    return f"{message[0].lower()}{message[1:]}, not {shown(given)}"


def fields_at(loc: Place) -> list[str]:
    """The keys that the section at a pydantic location may have."""
    options: list[Any] = [Config]
    for part in loc:
        models = [option for option in options if hasattr(option, "model_fields")]
        tagged = [model for model in models if part in _tags(model)]
        below = [leaf for model in models if part in model.model_fields for leaf in _leaves(model, part)]
        options = tagged or below or options  # neither: `part` is a task's name or an index
    return [name for option in options if hasattr(option, "model_fields") for name in option.model_fields]


def _leaves(model: Any, name: str) -> list[Any]:
    """The types that a field's annotation is made of: members of unions, values of mappings."""
    pending, found = [model.model_fields[name].annotation], []
    while pending:
        annotation = pending.pop(0)
        arguments = get_args(annotation)
        pending += arguments
        found += [] if arguments else [annotation]
    return found


def _tags(model: Any) -> tuple[Any, ...]:
    keys = [key for key in ("source", "kind") if key in model.model_fields]
    return tuple(tag for key in keys for tag in get_args(model.model_fields[key].annotation))


def main() -> None:
    """`python -m sparsepo.config.loading FILE...` checks configs; `--schema` prints the JSON schema."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--schema", action="store_true")
    options = parser.parse_args()
    if options.schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
    try:
        for path in options.files:
            load_config(path)
            print(f"{path}: good")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
