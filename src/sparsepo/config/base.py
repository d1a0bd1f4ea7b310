"""What every section of a config is made of: kinds of values, and how a mistake gets its sentence."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from sparsepo.config.grids import Mistake
from sparsepo.runtime.errors import one_line, shown

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*$", max_length=64)]


def _no_boolean(value: Any) -> Any:
    """pydantic takes `true` for 1, which nobody means who writes it for a number."""
    return refuse("must be a number, not true or false") if isinstance(value, bool) else value


def _said_in_words(value: Any) -> Any:
    """`true` or `false`, also as text of the command line; not 1, `yes` or whatever else pydantic takes for true."""
    words = {"true": True, "false": False}
    if isinstance(value, str) and value in words:
        return words[value]
    return value if isinstance(value, bool) else refuse(f"must be true or false, in words, not {shown(value)}")


MOST = 2**31 - 1
NUMBER = BeforeValidator(_no_boolean)
Count = Annotated[int, Field(gt=0, le=MOST), NUMBER]
CountOrZero = Annotated[int, Field(ge=0, le=MOST), NUMBER]
Seed = Annotated[int, Field(ge=0, lt=2**32), NUMBER]
Share = Annotated[float, Field(ge=0, lt=1), NUMBER]
Probability = Annotated[float, Field(gt=0, le=1), NUMBER]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER]
Factor = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False), NUMBER]
Epochs = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), NUMBER]
StrictBool = Annotated[bool, BeforeValidator(_said_in_words)]
Line = Annotated[str, Field(min_length=1, max_length=1000)]
Dtype = Literal["float32", "bfloat16", "float16"]


class Strict(BaseModel):
    """Refuses unknown keys; frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def refuse(sentence: str, *place: str | int) -> None:
    """Raise what pydantic collects as one error; `place` is the path below the section being checked."""
    refuse_all([(sentence, place)])


def refuse_all(mistakes: Iterable[Mistake]) -> None:
    """Raise what pydantic collects as one error a mistake; nothing for none."""
    errors = [
        InitErrorDetails(
            type=PydanticCustomError("sentence", "{sentence}", {"sentence": one_line(sentence), "place": place}),
            input=None,
        )
        for sentence, place in mistakes
    ]
    if errors:
        raise ValidationError.from_exception_data("mistakes", errors)


_PLACES = {"path": "a JSONL file", "hub": "a data set of the hub", "package": "an installed Python package"}


def one_place(section: BaseModel, *names: str) -> None:
    """Refuse unless exactly one of these fields is given; a path must be a file."""
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        choice = " or ".join(f"'{name}' ({_PLACES[name]})" for name in names)
        refuse(f"give one of {choice}, not {' and '.join(given) or 'none'}")
    if section.path is not None:
        exists(section.path, "path")


def exists(path: Path, *place: str) -> None:
    """Refuse a path that is not a file."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        refuse(f"no such file: {path} (paths are relative to the working directory)", *place)
