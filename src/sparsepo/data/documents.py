"""Documents of a config section, from a JSONL file, the hub or an installed package, with their classes where asked."""

from collections.abc import Iterator
from typing import Any

from sparsepo.data.records import Labelled, Text, as_record
from sparsepo.data.rows import Rows, file_rows, hub_rows, package_rows
from sparsepo.errors import UserError
from sparsepo.wording import shown

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
