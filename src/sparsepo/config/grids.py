"""The section `methods`: grids of parameter values for each method, kept as the text that stands in paths."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import product
from math import prod
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    WrapValidator,
)
from typing_extensions import TypeAliasType, TypedDict

from sparsepo.config.base import LocatedError, raise_error, raise_errors
from sparsepo.methods.method import MASKS
from sparsepo.methods.parameters import PARAMETERS, Site
from sparsepo.methods.registry import METHODS, check_reading, check_used, parameter_type
from sparsepo.runtime.errors import UserError, format_value
from sparsepo.runtime.validation import error_message

MAX_RUNS = 100_000
MAX_DIGITS = 24  # of a number, so that the folder of seven of them has a name that a disk takes
NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
"""A number as people write it; Python reads more as one."""
NEEDED = {"beta": '["0.1", "0.5"]', "target_mean": '["0.5", "0.8"]'}
"""Parameters that have to be given, for the methods that have them, with an example."""


# --- values as text


def as_text(value: Any) -> str:
    """A value as it stands in paths; several activation sites are joined by '+'."""
    return "+".join(map(str, value)) if isinstance(value, list) else str(value).strip()


def parse_value(name: str, text: str) -> Any:
    """The inverse of `as_text`: a number, a word or a tuple of words; a text that is not a number stays as it is."""
    if name == "activation_sites":
        return tuple(text.split("+"))
    if not _is_number(name) or len(text) > MAX_DIGITS or re.fullmatch(NUMBER, text) is None:
        return text
    value = float(text)
    return int(value) if get_args(PARAMETERS[name].type)[0] is int and value.is_integer() else value


def _is_number(name: str) -> bool:
    return get_args(PARAMETERS[name].type)[:1] in ((int,), (float,))


# --- the values of one parameter


def _values_type(method: str, name: str) -> Any:
    """The type of a parameter in a config: one value or a list of values, kept as text."""
    default = METHODS[method].parameters[name]

    def texts(values: Any) -> list[str]:
        items = values if isinstance(values, list) else [values]
        locations = [(index,) for index in range(len(items))] if isinstance(values, list) else [()]
        raise_errors(_values_errors(name, parameter_type(method, name), items, locations))
        return [as_text(item) for item in items]

    described = Field(
        description=PARAMETERS[name].description, json_schema_extra=None if default is None else {"default": default}
    )
    return Annotated[list[str], BeforeValidator(texts, json_schema_input_type=_schema_type(method, name)), described]


def _values_errors(name: str, kind: Any, items: list[Any], locations: list[tuple[int, ...]]) -> Iterator[LocatedError]:
    if not items:
        yield "is empty; give at least one value", ()
    parsed = [parse_value(name, as_text(item)) for item in items]
    if len(set(parsed)) < len(parsed):
        yield f"has a value twice: {', '.join(map(as_text, items))}", ()
    for item, value, location in zip(items, parsed, locations, strict=True):
        if _is_number(name) and (isinstance(value, str) or isinstance(item, list)):
            yield f"must be a plain number of at most {MAX_DIGITS} characters, not {format_value(item)}", location
            continue
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            yield error_message({**error.errors()[0], "input": item}), location


def _schema_type(method: str, name: str) -> Any:
    """What the JSON schema says of a parameter: a definition for all methods that have the same."""
    if name == "mask":
        choices = METHODS[method].mask_choices
        method = next(other for other, row in METHODS.items() if row.mask_choices == choices)
        return _definition(f"mask_of_{method}", parameter_type(method, name))
    kind = PARAMETERS[name].type
    if _is_number(name):
        kind |= Annotated[str, Field(pattern=f"^{NUMBER}$", max_length=MAX_DIGITS)]
    if name == "activation_sites":
        one = "|".join(get_args(Site))
        kind = Site | list[Site] | Annotated[str, Field(pattern=rf"^({one})(\+({one}))*$")]
    return _definition(name, kind)


@cache
def _definition(name: str, kind: Any) -> Any:
    """One value or a list of values."""
    return TypeAliasType(name, kind | Annotated[list[kind], Field(min_length=1)])


# --- the grid of one method, and of all


def _grid_type(method: str) -> Any:
    """The type of a method's grids, which a config may give as one: parameter -> values."""
    row = METHODS[method]
    grid = TypedDict(method, {name: _values_type(method, name) for name in row.parameters}, total=False)
    needed = [name for name in NEEDED if name in row.hyper]
    grid.__pydantic_config__ = ConfigDict(extra="forbid", json_schema_extra={"required": needed} if needed else None)
    description = f"{row.label}: {row.equation} ({row.source})"

    def check(values: dict[str, list[str]]) -> dict[str, list[str]]:
        raise_errors((message, keys) for message, *keys in _grid_errors(method, values))
        return values

    one = Annotated[grid, AfterValidator(check)]
    several = BeforeValidator(_as_list, json_schema_input_type=one | Annotated[list[one], Field(min_length=1)])
    return Annotated[list[one], several, AfterValidator(_without_repeats), Field(description=description)]


def _as_list(grids: Any) -> Any:
    return grids if isinstance(grids, list) else [grids]


def _without_repeats(grids: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """Raises an error for no grid, and for a point that stands in two."""
    if not grids:
        raise_error("is empty; give at least one grid")
    if sum(prod(map(len, grid.values())) for grid in grids) > MAX_RUNS:
        raise_error(f"the grids have more than {MAX_RUNS} points")
    seen: set[frozenset[tuple[str, str]]] = set()
    for grid in grids[: None if len(grids) > 1 else 0]:
        for values in product(*grid.values()):
            point = frozenset(zip(grid, values, strict=True))
            if point in seen:
                raise_error(
                    f"two grids have the same point: {', '.join(f'{key}={value}' for key, value in sorted(point))}"
                )
            seen.add(point)
    return grids


def _grid_errors(method: str, grid: Mapping[str, list[str]]) -> Iterator[tuple[str, ...]]:
    """What is wrong with a grid whose values are right one by one: a message, and the parameter that it is about."""
    for name, example in NEEDED.items():
        if name in METHODS[method].hyper and name not in grid:
            yield (f"method '{method}' needs values of '{name}', for example {name}: {example}",)
    if not grid and not METHODS[method].hyper:
        yield (f"method '{method}' needs at least one parameter, which names the folders of its runs",)
    points = prod(map(len, grid.values()))
    if points > MAX_RUNS:
        yield (f"the grid has {points} points, more than {MAX_RUNS}",)
    for name in grid:
        for given in [{"mask": mask} for mask in grid.get("mask", [])] or [{}]:
            try:
                check_used(method, {name: None} | given)
            except UserError as error:
                yield str(error), name
                break
    names = [name for name in ("mask", "form", "reduction", "reading", "activation_sites", "normalise") if name in grid]
    for point in product(*(grid[name] for name in names)):
        try:
            check_reading(method, {name: parse_value(name, text) for name, text in zip(names, point, strict=True)})
        except UserError as error:
            yield str(error), next(name for name in ("activation_sites", "reading", "mask") if name in grid)
            return


def _in_given_order(grids: Any, check: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Runs are made in the order of the config, where pydantic gives keys in the order of their definition."""
    checked = check(grids) if len(METHODS) + len(MASKS) == _BUILT_IN else _with_plugins().validate_python(grids)
    if not checked:
        raise_error("at least one method is needed")
    return {
        method: [
            {name: own[name] for name in given} for own, given in zip(checked[method], _as_list(grid), strict=True)
        ]
        for method, grid in grids.items()
    }


def methods_type() -> Any:
    """The type of the section: method -> its grid, of the methods and masks that are registered now."""
    kind = TypedDict("Methods", {method: _grid_type(method) for method in METHODS}, total=False)
    kind.__pydantic_config__ = ConfigDict(extra="forbid")
    return kind


def _with_plugins() -> TypeAdapter:
    return _adapter(tuple(METHODS), tuple(MASKS))


@cache
def _adapter(methods: tuple[str, ...], masks: tuple[str, ...]) -> TypeAdapter:
    """Of the section, once for each set of rows that are registered."""
    return TypeAdapter(methods_type())


_BUILT_IN = len(METHODS) + len(MASKS)
BuiltInMethods = methods_type()
Methods = Annotated[
    BuiltInMethods,
    WrapValidator(_in_given_order),
    # Pydantic's own leaves out what plugins have registered.
    PlainSerializer(lambda methods: {name: grids if len(grids) > 1 else grids[0] for name, grids in methods.items()}),
]
"""Method -> its grids: parameter -> values as text, in the order of the config."""
