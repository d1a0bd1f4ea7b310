"""The base class of every section of a config, types of values, and how a check reports an error."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from sparsepo.runtime.errors import format_value, one_line
from sparsepo.runtime.validation import name_type

LocatedError = tuple[str, tuple[str | int, ...]]
"""An error message, and the keys that lead from the section that is checked to the value that is wrong."""


class Section(BaseModel):
    """A section of a config: unknown keys are errors, values cannot be changed, each key is described below it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


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

_ORIGINS = {"path": "a JSONL file", "hub": "a data set of the hub", "package": "an installed Python package"}


def require_one_origin(section: Section, *keys: str) -> None:
    """Raise unless exactly one of these keys, each a place where data come from, is given; a path must be a file."""
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        choice = " or ".join(f"'{key}' ({_ORIGINS[key]})" for key in keys)
        raise_error(f"give one of {choice}, not {' and '.join(given) or 'none'}")
    if section.path is not None:
        require_file(section.path, "path")


def require_file(path: Path, *location: str) -> None:
    """Raise unless this is a file."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise_error(f"no such file: {path} (paths are relative to the working directory)", *location)
