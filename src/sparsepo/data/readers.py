"""Rows of a config section, from a JSONL file, the hub or an installed package, each with its place for errors."""

import csv
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsepo.data.records import Labelled, Text, as_record, json_lines
from sparsepo.runtime.errors import UserError

PlacedRows = Iterator[tuple[str, Any]]
"""(place, row): the place is what an error calls it, as "file.jsonl:3"."""


def section_rows(section: dict[str, Any]) -> PlacedRows:
    """The rows that the `path`, the `package` or the `hub` of a config section names."""
    if section["path"] is not None:
        return file_rows(section["path"])
    return package_rows(section["package"]) if section.get("package") else hub_rows(section["hub"])


def section_name(section: dict[str, Any]) -> str:
    """What an error calls the data of a config section."""
    if section.get("package"):
        return f"{section['package']['name']} ({section['package']['file']})"
    return section["path"] or section["hub"]["id"]


def file_rows(path: str) -> PlacedRows:
    """The lines of a JSONL file. Raises UserError naming file and line."""
    return ((f"{path}:{number}", row) for number, row in json_lines(path))


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
    return ((f"{name} ({split}) row {number}", row) for number, row in enumerate(table, start=1))


def package_rows(package: dict[str, Any]) -> PlacedRows:
    """The rows of a CSV file of an installed package, {"name", "file", "where"}, that have all values of `where`.

    A place is the line on which a row ends. Raises UserError for a package, a file or a column that does not exist.
    """
    path = package_file(package["name"], package["file"])
    with open(path, encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        missing = sorted(set(package["where"]) - set(table.fieldnames or ()))
        if missing:
            raise UserError(f"{path}: no column '{missing[0]}'; its columns: {', '.join(table.fieldnames or ())}")
        for row in table:
            if all(row[name] == value for name, value in package["where"].items()):
                yield f"{path}:{table.line_num}", row


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
    columns, kind = data["package"] or data["hub"], Labelled if data["labelled"] else Text
    for place, row in section_rows(data):
        record = as_record(_rename_columns(row, columns) if columns else row, kind, place)
        documents.setdefault(record.text, getattr(record, "label", None))
    return documents


def _rename_columns(row: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    """A row of the hub or a package with the fields `text` and `label`; in a CSV file a class is text."""
    renamed = {name: row[columns[name]] for name in ("text", "label") if columns[name] in row}
    if renamed.get("label") in ("0", "1"):
        renamed["label"] = int(renamed["label"])
    return renamed
