"""Rows of a config section, from a file, a saved data set, the hub or an installed package, each with its place."""

import ast
import csv
import importlib.metadata
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo.data.records import Labelled, String, as_record, json_lines, parse_json, read_text
from sparsepo.runtime.errors import UserError, format_value, one_line
from sparsepo.runtime.user_code import load_function

PlacedRows = Iterator[tuple[str, Any]]
"""(place, row): the place is what an error calls it, as "file.jsonl:3" or "file.parquet row 3"."""

NOT_TEXT = frozenset(
    (
        *("label", "labels", "score", "scores", "reward", "rewards", "score_chosen", "score_rejected", "score_A"),
        *("score_B", "helpfulness", "overall_preference", "chosen_score", "rejected_score", "chosen_ended"),
        *("rejected_ended", "chosen_values", "rejected_values", "ended", "responses", "completions", "output", "tools"),
    )
)
"""Fields that may be numbers, truth values or lists. Where cells are texts, theirs are read as JSON if they can be."""
MESSAGES = re.compile(r"""\s*(\[\s*)?\{\s*["'](role|content|from|value)["']\s*:""")
"""How a cell begins that holds messages, as JSON or as Python prints them."""


@dataclass(frozen=True)
class Document:
    """A row of a source of texts."""

    text: String


def section_rows(section: dict[str, Any]) -> PlacedRows:
    """The rows that the `path`, `package`, `function` or `hub` of a config section names, with its `columns` renamed.

    Where values have no types of their own, in a CSV file, or where a list may be stored as text, cells of numbers,
    lists and messages are parsed. Raises UserError naming the place.
    """
    if section["path"] is not None:
        rows = file_rows(section["path"], section["split"])
    elif section.get("function"):
        rows = function_rows(section["function"])
    else:
        rows = package_rows(section["package"]) if section.get("package") else hub_rows(section["hub"])
    rows = rename_columns(rows, section["columns"])
    has_types = is_json(section["path"]) or section.get("function")
    return rows if has_types else ((place, parse_cells(row)) for place, row in rows)


def section_name(section: dict[str, Any]) -> str:
    """What an error calls the data of a config section."""
    if section.get("package"):
        return f"{section['package']['name']} ({section['package']['file']})"
    name = section["path"] or section.get("function") or section["hub"]["id"]
    return ", ".join([name, *map(section_name, section.get("mixture", ()))])


def rename_columns(rows: PlacedRows, columns: dict[str, str]) -> PlacedRows:
    """Rows whose column `columns[field]` is called `field`. Raises UserError, with all columns, if one is missing."""
    for place, row in rows:
        if columns and isinstance(row, dict):
            missing = [column for column in columns.values() if column not in row]
            if missing:
                names = one_line(", ".join(map(str, row)), 300)
                raise UserError(f"{place}: no column '{one_line(missing[0], 64)}'; its columns: {names}")
            others = {name: value for name, value in row.items() if name not in columns.values()}
            row = others | {field: row[column] for field, column in columns.items()}
        yield place, row


def parse_cells(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose texts that stand for numbers, lists or messages are parsed; an empty number or list is None.

    >>> parse_cells({"prompt": "[1]", "scores": "[1, 2]", "label": "1", "chosen": "[{'role': 'user', 'content': 'a'}]"})
    {'prompt': '[1]', 'scores': [1, 2], 'label': 1, 'chosen': [{'role': 'user', 'content': 'a'}]}
    """
    return {name: _parse_cell(name, value) if isinstance(value, str) else value for name, value in row.items()}


def _parse_cell(name: str, text: str) -> Any:
    if name in NOT_TEXT and not text.strip():
        return None
    if name in NOT_TEXT and text.strip().lower() in ("true", "false"):  # pandas writes True
        return text.strip().lower() == "true"
    if name in NOT_TEXT or MESSAGES.match(text):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return text


# --- files


def is_json(path: str | None) -> bool:
    """Whether `file_rows` reads a file as JSON, whose values have types."""
    return path is not None and not os.path.isdir(path) and _ending(path) not in (".csv", ".tsv", ".parquet", ".arrow")


def _ending(path: str) -> str:
    return Path(path.removesuffix(".gz")).suffix.lower()


def file_rows(path: str, split: str | None = None) -> PlacedRows:
    """The rows of a file, or of a folder that `save_to_disk` of `datasets` wrote, with its `split` if it has several.

    The ending of the name says what a file is: .csv, .tsv, .parquet, .arrow, .json (a list of objects, or as any other)
    and any other, as .jsonl: lines of JSON. A text file may be packed, with the further ending .gz. Raises UserError
    naming file and line, or row.
    """
    ending = _ending(path)
    if os.path.isdir(path):
        return numbered(saved_rows(path, split), path)
    if ending in (".csv", ".tsv"):
        return csv_rows(path, "\t" if ending == ".tsv" else ",")
    if ending in (".parquet", ".arrow"):
        return numbered(arrow_rows(path, ending), path)
    if ending == ".json" and (text := read_text(path)).lstrip().startswith("["):
        return numbered(parse_json(text, path, "a list of objects"), path)
    return ((f"{path}:{number}", row) for number, row in json_lines(path))


def numbered(rows: Iterable[Any], name: str) -> PlacedRows:
    """Rows without lines, counted from 1."""
    return ((f"{name} row {number}", row) for number, row in enumerate(rows, start=1))


def csv_rows(path: str | Path, delimiter: str = ",") -> PlacedRows:
    """The rows of a CSV file, whose first line names the columns. A place is the line on which a row ends.

    Raises UserError for a row with more or fewer cells than columns.
    """
    csv.field_size_limit(sys.maxsize)  # a text may be longer than the default limit, which is one for all of Python
    table = csv.DictReader(io.StringIO(read_text(path, newline=""), newline=""), delimiter=delimiter)
    try:
        names = table.fieldnames or ()
        if len(set(names)) < len(names):
            raise UserError(f"{path}:1: two columns have the same name: {one_line(', '.join(names), 300)}")
        for row in table:
            place = f"{path}:{table.line_num}"
            if None in row or None in row.values():
                amount = "more" if None in row else "fewer"
                raise UserError(f"{place}: {amount} cells than the {len(names)} columns of line 1")
            yield place, row
    except csv.Error as error:
        raise UserError(f"{path}:{table.line_num}: not valid CSV ({error})") from None


def arrow_rows(path: str, ending: str) -> Iterator[Any]:
    """The rows of a Parquet file, or of an Arrow file or stream."""
    import pyarrow as pa
    import pyarrow.parquet
    from datasets import Dataset

    try:
        if ending == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            with pa.memory_map(path) as start:
                is_file = start.read(6) == b"ARROW1"
            table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(pa.memory_map(path)).read_all()
        table.validate(full=True)  # values of a broken file could be read from anywhere in memory
        return iter(Dataset(table))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:  # also of the library's metadata
        raise UserError(f"{path}: cannot be read ({one_line(str(error), 160)})") from None


def saved_rows(folder: str, split: str | None) -> Iterator[Any]:
    """The rows of a folder that `save_to_disk` wrote; `split`: of a `DatasetDict`."""
    from datasets import load_from_disk
    from datasets.exceptions import DatasetsError

    try:
        saved = load_from_disk(folder)
        return iter(saved[split] if split else saved)
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise UserError(f"{folder}: cannot be read ({one_line(str(error), 160)})") from None


def function_rows(function: str) -> PlacedRows:
    """The rows that a function of the user yields or returns, or those of a DataFrame. Raises UserError for others."""
    rows = load_function(function)()
    rows = rows.to_dict("records") if type(rows).__name__ == "DataFrame" else rows
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        given = "None" if rows is None else f"one {type(rows).__name__}"
        raise UserError(f"function '{function}' returned {given}; it must yield rows, each a mapping")
    for place, row in numbered(rows, function):
        if not isinstance(row, Mapping):
            raise UserError(f"{place}: must be a mapping of fields, not {format_value(row)}")
        yield place, dict(row)


# --- the hub and packages


def hub_rows(hub: dict[str, Any]) -> PlacedRows:
    """The rows of a split of a data set of the hub: {"id", "config", "split"}; rows are counted from 1.

    `datasets` runs no code of a data set. A data set that consists of a script is read from the copy in Parquet that
    the hub keeps of it, with a folder for each configuration. Raises UserError where nothing can be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name, split = hub["id"], hub["split"]
    try:
        try:
            table = load_dataset(name, hub["config"], split=split)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            folder = hub["config"] or "default"
            table = load_dataset(name, revision="refs/convert/parquet", data_dir=folder, split=split)
    except (OSError, ValueError, KeyError, RuntimeError, DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"hub data set '{name}' cannot be loaded ({reason[:160]})") from None
    return numbered(table, f"{name} ({split})")


def package_rows(package: dict[str, Any]) -> PlacedRows:
    """The rows of a CSV file of an installed package, {"name", "file", "where"}, that have all values of `where`.

    A place is the line on which a row ends. Raises UserError for a package, a file or a column that does not exist.
    """
    path, where = package_file(package["name"], package["file"]), package["where"]
    for place, row in csv_rows(path):
        missing = sorted(set(where) - set(row))
        if missing:
            raise UserError(f"{path}: no column '{missing[0]}'; its columns: {', '.join(row)}")
        if all(row[name] == value for name, value in where.items()):
            yield place, row


def package_file(name: str, pattern: str) -> Path:
    """The one file of an installed distribution that matches; nothing of the package is imported or run."""
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):  # ValueError: no package can have this name
        raise UserError(f"package '{name}' is not installed; pip install --no-deps {name}") from None
    matches = [file for file in files if file.match(pattern)]
    if len(matches) != 1:
        similar = sorted(file.name for file in files if file.suffix == Path(pattern).suffix)
        names = ", ".join(similar[:5]) or "none"
        raise UserError(f"'{pattern}' matches {len(matches)} files of package '{name}', not one; it has {names}")
    return Path(matches[0].locate())


def read_documents(data: dict[str, Any]) -> dict[str, int | None]:
    """Text -> class, 1 or 0 (None where `data.labelled` is 0), in the order of the data.

    Texts are kept as they are, with their mark-up. Of equal texts the first counts. Raises UserError for a row without
    text or class.
    """
    documents: dict[str, int | None] = {}
    kind = Labelled if data["labelled"] else Document
    for place, row in section_rows(data):
        record = as_record(row, kind, place)
        documents.setdefault(record.text, getattr(record, "label", None))
    return documents
