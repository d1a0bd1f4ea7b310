"""Grids of a method's parameters: values as text, as they stand in paths, and what is wrong with them."""

from collections.abc import Iterator
from typing import Any

from sparsepo.config.renamed import renamed_key_error
from sparsepo.methods.registry import ALLOWED, METHODS, check_read, check_values
from sparsepo.runtime.errors import UserError, shown

LONGEST = 24  # characters of a number, so that the folder of seven of them has a name that a disk takes
NEEDED = {"beta": '["0.1", "0.5"]', "target_mean": '["0.5", "0.8"]'}
"""What a grid must say for the methods that have it, with an example."""
Mistake = tuple[str, tuple[str | int, ...]]  # a sentence, and the path below the section being checked


def grid_mistakes(method: str, given: dict[str, Any]) -> Iterator[Mistake]:
    """What is wrong with the grid of a method; what a path begins with, beta for most, must be there."""
    unknown = _refusal(method, {})
    if unknown is not None:
        yield unknown, (method,)
        return
    for name, example in NEEDED.items():
        if name in METHODS[method].hyper and name not in given:
            yield f"method '{method}' needs values of '{name}', for example {name}: {example}", (method,)
    if not given and not METHODS[method].hyper:
        yield f"method '{method}' needs at least one parameter, which names the folders of its runs", (method,)
    for name, values in given.items():
        if name in METHODS[method].parameters:
            for sentence, index in _value_mistakes(method, name, values):
                yield sentence, (method, name, *index)
            yield from ((sentence, (method, name)) for sentence in _unread(method, name, given.get("mask")))
        else:
            message = renamed_key_error(name, METHODS[method].parameters) or _refusal(method, {name: None})
            yield message, (method, name)


def _unread(method: str, name: str, masks: Any) -> Iterator[str]:
    """Why a parameter says nothing for one of the masks of a grid; where there are none, for the method's own."""
    known = [mask for mask in as_texts(masks or []) if mask in METHODS[method].mask_choices]
    for given in [{"mask": mask} for mask in known] if masks else [{}]:
        try:
            check_read(method, {name: None} | given)
        except UserError as error:
            yield str(error)
            return


def _value_mistakes(method: str, name: str, values: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    texts = as_texts(values)
    if not texts:
        yield f"the grid of '{name}' is empty; give at least one value", ()
    if len({parse_value(name, text) for text in texts}) < len(texts):
        yield f"the grid of '{name}' has a value twice: {', '.join(texts)}", ()
    for index, text in enumerate(texts):
        refused = _refusal(method, {name: parse_value(name, text)}) or _unfit_for_a_path(name, text, values)
        if refused is not None:
            yield refused, (index,) if isinstance(values, list) else ()


def _unfit_for_a_path(name: str, text: str, values: Any) -> str | None:
    """Why a value that the method takes cannot stand in a path: Python reads more as a number than people write."""
    if not ALLOWED[name].is_number:
        return None
    plain = text.isascii() and "_" not in text and len(text) <= LONGEST
    listed = isinstance(values, list) and any(isinstance(value, list) for value in values)
    wanted = f"a plain number of at most {LONGEST} characters"
    return None if plain and not listed else f"parameter '{name}' must be {wanted}, not {shown(text)}"


def _refusal(method: str, given: dict[str, Any]) -> str | None:
    """Why the table of methods does not take these parameters."""
    try:
        check_values(method, given)
    except UserError as error:
        return str(error)
    return None


def as_texts(values: Any) -> list[str]:
    """The values of one parameter as they stand in paths; a single value may be given without a list."""
    return [as_text(value) for value in (values if isinstance(values, list) else [values])]


def as_text(value: Any) -> str:
    """A grid value as it stands in paths; a list (of module kinds) is joined by '+'."""
    return "+".join(map(str, value)) if isinstance(value, list) else str(value).strip()


def parse_value(name: str, text: str) -> Any:
    """The inverse of `as_text` for a parameter: a number, a choice, or a tuple of choices."""
    allowed = ALLOWED.get(name)
    if allowed is None or allowed.name or (allowed.choices and not allowed.subset):
        return text
    if allowed.subset:
        return tuple(text.split("+"))
    try:
        return float(text)
    except ValueError:
        return text
