"""The base class of every section of a config, types of values, and how a check reports an error."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from sparsepo.runtime.errors import UserError, format_value, missing_reason, one_line
from sparsepo.runtime.user_code import find_function
from sparsepo.runtime.validation import name_type

LocatedError = tuple[str, tuple[str | int, ...]]
"""An error message, and the keys that lead from the section that is checked to the value that is wrong."""


class Section(BaseModel):
    """A section of a config: unknown keys are errors, values cannot be changed, each key is described below it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def _errors(self) -> Iterator[LocatedError]:
        """What is wrong with values that are right one by one."""
        yield from ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_errors(self._errors())
        return self


def raise_error(message: str, *location: str | int) -> NoReturn:
    """Raise a ValidationError about the value at `location`, below the section that is checked."""
    raise_errors([(message, location)])


def raise_errors(errors: Iterable[LocatedError]) -> None:
    """Raise one ValidationError that holds all of these errors; return if there are none."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("located", "{message}", {"message": one_line(message), "location": location}),
            input=None,
        )
        for message, location in errors
    ]
    if details:
        raise ValidationError.from_exception_data("config", details)


def must(holds: Callable[[Any], bool], message: str, *location: str) -> AfterValidator:
    """The rule of a type that this holds of a value; `{}` in the message is the value."""
    return AfterValidator(lambda value: value if holds(value) else raise_error(message.format(value), *location))


def passes(check: Callable[[Any], Any]) -> AfterValidator:
    """The rule of a type that this check of a value raises no UserError, whose message is that of the config."""

    def checked(value: Any) -> Any:
        try:
            check(value)
        except UserError as error:
            raise_error(str(error))
        return value

    return AfterValidator(checked)


def _number(value: Any) -> Any:
    """Refuse `true` and `false`, which pydantic takes for 1 and 0."""
    return raise_error("must be a number, not true or false") if isinstance(value, bool) else value


def _boolean(value: Any) -> Any:
    """`true` or `false`, also as text of the command line; not what else pydantic takes for one: 1, `yes`."""
    if value in ("true", "false"):
        return value == "true"
    return value if isinstance(value, bool) else raise_error(f"must be true or false, not {format_value(value)}")


MAX_INT = 2**31 - 1
NUMBER = BeforeValidator(_number)
Count = Annotated[int, Field(gt=0, le=MAX_INT), NUMBER]
CountOrZero = Annotated[int, Field(ge=0, le=MAX_INT), NUMBER]
Seed = Annotated[int, Field(ge=0, lt=2**32), NUMBER]
Fraction = Annotated[float, Field(ge=0, lt=1), NUMBER]
Probability = Annotated[float, Field(gt=0, le=1), NUMBER]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER]
Factor = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False), NUMBER]
Epochs = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), NUMBER]
Bool = Annotated[bool, BeforeValidator(_boolean)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
PathName = name_type(
    r"(?=.{1,64}$)[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*", "at most 64 letters, digits, '.', '-' and single '_'"
)
Dtype = Literal["float32", "bfloat16", "float16"]


FunctionName = Annotated[Text, passes(find_function)]
"""`file.py:function`, the file beside the config, or `package.module:function`."""

_ORIGINS = {
    "path": "a file",
    "hub": "a data set of the hub",
    "package": "an installed Python package",
    "function": "a Python function that yields rows",
}


def origin_errors(section: Section, *keys: str) -> Iterator[LocatedError]:
    """Exactly one of these keys, each a place where data come from, is needed; a path must be a file.

    Of a section with a key `split` it may be a folder.
    """
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        choice = " or ".join(f"'{key}' ({_ORIGINS[key]})" for key in keys)
        yield f"give one of {choice}, not {' and '.join(given) or 'none'}", ()
    elif section.path is not None and hasattr(section, "split") and os.path.isdir(section.path):
        yield from _saved_data_errors(section.path, section.split)
    elif section.path is not None:
        yield from file_errors(section.path, "path")


def _saved_data_errors(folder: Path, split: str | None) -> Iterator[LocatedError]:
    """That `save_to_disk` of `datasets` did not write this folder, or without this split; None: it has only one."""
    if (folder / "dataset_info.json").is_file():
        if split is not None:
            yield f"the data set in {folder} has no splits; leave 'split' out", ("split",)
        return
    try:
        splits = list(json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"])
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{folder} is a folder that `datasets` did not save; give a file, or use save_to_disk", ("path",)
        return
    if split not in splits:
        yield f"give one of the splits of {folder}: {', '.join(splits)}", ("split",)


def file_errors(path: Path, *location: str) -> Iterator[LocatedError]:
    """That this is no file, or one that cannot be read."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        reason = missing_reason(path, "file")
        yield f"{reason}: {path} (paths are relative to the working directory)", location
    elif not os.access(path, os.R_OK):
        yield f"permission denied: {path}", location
