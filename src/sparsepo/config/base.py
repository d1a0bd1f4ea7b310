"""What every section of a config is made of: kinds of values, and how a mistake gets its sentence."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from sparsepo.grids import Mistake

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*$", max_length=64)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
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
            type=PydanticCustomError("sentence", "{sentence}", {"sentence": sentence, "place": place}), input=None
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
    if not path.is_file():
        refuse(f"no such file: {path} (paths are relative to the working directory)", *place)
