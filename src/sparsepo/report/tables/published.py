"""Numbers that papers print, read from `published.yaml` beside this file."""

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Published:
    """`values`: method -> metric -> value, in the units of the printed table; `source`: the tables they are printed in.

    A metric of one suite or temperature is named with it: `pass@1 humaneval`.
    """

    values: dict[str, dict[str, float]]
    source: str


def load_published(task: str | None) -> Published:
    """What the paper prints of a task; nothing for None and for a task without printed numbers."""
    tables = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))["tables"]
    tables = [table for table in tables if table["task"] == task]
    values: dict[str, dict[str, float]] = {}
    for table in tables:
        for method, row in table["rows"].items():
            values[method] = values.get(method, {}) | row
    return Published(values, "; ".join(f"{table['source']}, {table['table']} ({table['model']})" for table in tables))
