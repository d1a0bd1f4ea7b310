"""The JSONL files between stages: one typed record a line, validated on read, written atomically."""

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AllowInfNan,
    Field,
    Strict,
    StrictBool,
    StrictInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from sparsepo.runtime.errors import UserError, format_value, one_line
from sparsepo.runtime.files import atomic_file, check_file

# with a constraint, pydantic also refuses half of a surrogate pair, which no file can hold
String = Annotated[str, StringConstraints(strict=True, min_length=0)]
Number = Annotated[float, Strict(), AllowInfNan(False)]
ZeroOrOne = Annotated[int, Strict(), Field(ge=0, le=1)]


def _written_as_json(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        json.dumps(messages, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise ValueError("messages hold a number that is not finite, or half of a character") from None
    return messages


Messages = Annotated[list[dict[str, Any]], AfterValidator(_written_as_json)]
"""A chat as it came: each message has a `role`, a `content`, and maybe more that a chat template reads."""


@dataclass(frozen=True)
class Prompt:
    """What a policy is asked to continue; `reference` is a good response, for comparison, and `id` a problem's name.

    messages: the chat that `prompt` was made of. rendered: by the chat template of the model's tokenizer, so that the
    text has all its special tokens. columns: of its row, those that a function of the user asks for.
    """

    prompt: String
    id: String = ""
    reference: String = ""
    messages: Messages | None = None
    rendered: StrictBool = False
    columns: dict[String, Any] | None = None


@dataclass(frozen=True)
class Text:
    """One document of the SFT corpus: `prompt` (may be empty, carries no loss) and `text` (carries the loss)."""

    text: String
    prompt: String = ""
    rendered: StrictBool = False


@dataclass(frozen=True)
class Labelled:
    """A document with its class, 1 or 0, which a reward is fitted to."""

    text: String
    label: ZeroOrOne


@dataclass(frozen=True)
class Completion:
    """One sampled response. `tokens` are the sampled ids, the end token included when `ended`."""

    prompt: String
    text: String
    tokens: list[StrictInt]
    ended: StrictBool
    id: String = ""
    split: String = "test"
    temperature: Number = 1.0
    messages: Messages | None = None
    rendered: StrictBool = False
    columns: dict[String, Any] | None = None


@dataclass(frozen=True)
class Scored:
    """One response with a number attached; a file of them is the ODPO format."""

    prompt: String
    text: String
    reward: Number
    ended: StrictBool = True
    tokens: list[StrictInt] | None = None
    messages: Messages | None = None
    rendered: StrictBool = False

    @classmethod
    def of(cls, response: Completion, reward: float) -> "Scored":
        """A sampled response with its score."""
        fields = {
            name: getattr(response, name) for name in ("prompt", "text", "ended", "tokens", "messages", "rendered")
        }
        return cls(reward=reward, **fields)


@dataclass(frozen=True)
class Preference:
    """One pair. `*_ended`: the response is complete and is followed by the end token, not cut at a length limit.

    `epoch`: the one epoch, counted from 0, that trains on this pair; None is every epoch. `*_values`: a number for each
    token of the response, its end token included if it has ended: what that is, weight or score, a mask says.
    `rejected_prompt`: of a rejected response to another prompt, for losses that look at each response alone.
    `*_ids`: the tokens of a response that was sampled, which are not encoded again. `messages`, `rendered`: see Prompt.
    """

    prompt: String
    chosen: String
    rejected: String
    chosen_score: Number | None = None
    rejected_score: Number | None = None
    chosen_ended: StrictBool = True
    rejected_ended: StrictBool = True
    epoch: StrictInt | None = None
    chosen_values: list[Number] | None = None
    rejected_values: list[Number] | None = None
    rejected_prompt: String | None = None
    chosen_ids: list[StrictInt] | None = None
    rejected_ids: list[StrictInt] | None = None
    messages: Messages | None = None
    rendered: StrictBool = False


Record = TypeVar("Record")


def read_records(path: str | Path, kind: type[Record]) -> list[Record]:
    """Read a JSONL file of `kind`; extra fields are ignored. Raises UserError naming file, line and field."""
    return [as_record(row, kind, f"{path}:{number}") for number, row in json_lines(path)]


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Plain JSON objects, one a line: what the pipeline wrote for itself (logs of steps, tokens)."""
    return [row for _, row in json_lines(path)]


def json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value) of a file. Raises UserError naming file and line."""
    lines = read_text(path).split("\n")  # not splitlines: U+2028 may stand inside a string
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, parse_json(line, f"{path}:{number}", "one object a line")


def read_text(path: str | Path, newline: str | None = None) -> str:
    """The text of a file, unpacked if its name ends in .gz. Raises UserError naming it, also for a wrong checksum.

    newline: as of `open`; "" keeps the line ends of the file.
    """
    try:
        content = Path(path).read_bytes()
        check_file(Path(path), content)
        if str(path).endswith(".gz"):
            content = gzip.decompress(content)
        with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=newline) as file:  # some have a BOM
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; a JSONL file is expected") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: cannot be read (it is no whole gzip file)") from None
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
        reason += f" in line {error.lineno}" if getattr(error, "lineno", 1) > 1 else ""
        raise UserError(f"{place}: not valid JSON ({reason}); {wanted} is expected") from None


def _distinct(pairs: list[tuple[str, Any]], place: str) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise UserError(f"{place}: key {format_value(key)} is given twice in one object")
    return values


def as_record(row: Any, kind: type[Record], place: str) -> Record:
    """A mapping as a dataclass; extra fields are ignored. Raises UserError naming `place` and the field."""
    try:
        return _adapter(kind).validate_python(row)
    except ValidationError as error:
        raise UserError(f"{place}: {_reason(error.errors(include_url=False)[0])}") from None


@cache
def _adapter(kind: type[Record]) -> TypeAdapter[Record]:
    return TypeAdapter(kind)


def as_object(row: Any, place: str) -> dict[str, Any]:
    """A row that is a JSON object. Raises UserError naming `place`."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: the row must be a JSON object, not {format_value(row, 40)}")
    return row


def _reason(error: Any) -> str:
    """One error of pydantic as a sentence."""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    if error["type"] == "missing":
        given = one_line(", ".join(sorted(map(str, error["input"]))), 200) or "none"
        return f"field '{field}' is missing (fields given: {given})"
    expected = "a JSON object" if error["type"] == "dataclass_type" else error["msg"].removeprefix("Input should be ")
    subject = f"field '{field}'" if field else "the row"
    return f"{subject} must be {expected}, not {format_value(error['input'], 40)}"


def write_records(path: str | Path, records: Iterable[Any]) -> None:
    """Write dataclasses or dicts as JSONL; a reader sees the whole file or none of it."""
    rows = (record if isinstance(record, dict) else asdict(record) for record in records)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: str | Path) -> Any:
    """What a file of JSON holds. Raises UserError naming it."""
    return parse_json(read_text(path), str(path), "what a job wrote")


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON document, see `atomic_file`."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, see `atomic_file`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, see `atomic_file`."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
