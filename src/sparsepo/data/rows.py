"""Rows of a data set, each with its place: from a JSONL file, from the hub, or from a CSV file of a package."""

import csv
from collections.abc import Iterator
from typing import Any

from sparsepo.data.records import json_lines, require_text
from sparsepo.errors import UserError
from sparsepo.packages import package_file
from sparsepo.wording import shown

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
