"""The JSONL files between stages: one typed record a line, validated on read, written atomically."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from sparsepo.runtime.errors import UserError, naming, one_line, shown


@dataclass(frozen=True)
class Prompt:
    """What a policy is asked to continue; `reference` is a good response, for comparison, and `id` a problem's name."""

    prompt: str
    id: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Text:
    """One document of the SFT corpus: `prompt` (may be empty, carries no loss) and `text` (carries the loss)."""

    text: str
    prompt: str = ""


@dataclass(frozen=True)
class Labelled:
    """A document with its class, 1 or 0, which a reward is fitted to."""

    text: str
    label: int


@dataclass(frozen=True)
class Completion:
    """One sampled response. `tokens` are the sampled ids, the end token included when `ended`."""

    prompt: str
    text: str
    tokens: list[int]
    ended: bool
    id: str = ""
    split: str = "test"
    temperature: float = 1.0


@dataclass(frozen=True)
class Scored:
    """One response with a number attached; a file of them is the ODPO format."""

    prompt: str
    text: str
    reward: float
    ended: bool = True


@dataclass(frozen=True)
class Preference:
    """One pair. `*_ended`: the response is complete and is followed by the end token, not cut at a length limit.

    `epoch`: the one epoch, counted from 0, that trains on this pair; None is every epoch. `*_values`: a number for each
    token of the response, its end token included if it has ended: what that is, weight or score, a mask says.
    """

    prompt: str
    chosen: str
    rejected: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    chosen_ended: bool = True
    rejected_ended: bool = True
    epoch: int | None = None
    chosen_values: list[float] | None = None
    rejected_values: list[float] | None = None


Record = TypeVar("Record", Prompt, Text, Labelled, Completion, Scored, Preference)

_SAYS = {str: "a string", float: "a finite number", bool: "true or false", int: "an integer", list: "a list"}
_OPTIONAL = {float | None: float, int | None: int, list[float] | None: list}


def read_records(path: str | Path, kind: type[Record]) -> list[Record]:
    """Read a JSONL file of `kind`; extra fields are ignored. Raises UserError naming file, line and field."""
    return [record for _, record in read_numbered(path, kind)]


def read_numbered(path: str | Path, kind: type[Record]) -> Iterator[tuple[int, Record]]:
    """Like `read_records`, but yields (line number, record), for callers that refuse rows themselves."""
    for number, row in json_lines(path):
        yield number, as_record(row, kind, f"{path}:{number}")


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Plain JSON objects, one a line: what the pipeline wrote for itself (logs of steps, tokens)."""
    return [row for _, row in json_lines(path)]


def json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value) of a file. Raises UserError naming file and line."""
    lines = read_text(path).split("\n")  # not splitlines: U+2028 may stand inside a string
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, parse_json(line, f"{path}:{number}", "one object a line")


def read_text(path: str | Path) -> str:
    """The text of a file of the user. Raises UserError naming it."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # some editors put a byte order mark in front
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; a JSONL file is expected") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def parse_json(text: str, place: str, wanted: str) -> Any:
    """A JSON value. Raises UserError naming `place`, also for a key given twice: Python would keep the last."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _distinct(pairs, place))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "a number too long, or nested too deeply")
        raise UserError(f"{place}: not valid JSON ({reason}); {wanted} is expected") from None


def _distinct(pairs: list[tuple[str, Any]], place: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise UserError(f"{place}: key {shown(twice)} is given twice in one object")
    return found


def as_record(row: Any, kind: type[Record], place: str) -> Record:
    """A mapping as a record; extra fields are ignored. Raises UserError naming `place` and the field."""
    if not isinstance(row, Mapping):
        raise UserError(f"{place}: a JSON object is expected, not {shown(row, 40)}")
    values = {}
    for field in fields(kind):
        if field.name in row:
            values[field.name] = _checked(row[field.name], field.type, f"{place}: field '{field.name}'")
        elif field.default is MISSING:
            given = one_line(", ".join(sorted(map(str, row))), 200) or "none"
            raise UserError(f"{place}: field '{field.name}' is missing (fields given: {given})")
    return kind(**values)


def _checked(value: Any, annotation: Any, place: str) -> Any:
    if value is None and annotation in _OPTIONAL:
        return None
    wanted = {list[int]: list, **_OPTIONAL}.get(annotation, annotation)
    if wanted is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)
    wrong = not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))
    if wrong or (wanted is float and not math.isfinite(value)):
        raise UserError(f"{place} must be {_SAYS[wanted]}, not {shown(value, 40)}")
    if wanted is str:
        require_text(value, place)
    if wanted is list and annotation in _OPTIONAL:
        return [_checked(item, float, f"{place}[{at}]") for at, item in enumerate(value)]
    if wanted is list and not all(type(item) is int for item in value):
        raise UserError(f"{place} must be a list of integers")
    return value


def require_text(value: str, place: str) -> None:
    """Raises UserError for a string of Python that no file can hold."""
    if not value.isascii() and value.encode("utf-8", "replace").decode() != value:
        raise UserError(f"{place} holds half of a surrogate pair, which is not text")


def write_records(path: str | Path, records: Iterable[Any]) -> None:
    """Write dataclasses or dicts as JSONL; a reader sees the whole file or none of it."""
    rows = (record if isinstance(record, dict) else asdict(record) for record in records)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON document, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write to a temporary name beside `path`, to the disk itself, then rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
