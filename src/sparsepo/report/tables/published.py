"""Figures that the paper prints, read from `published.yaml` beside this file."""

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Published:
    """`figures`: method -> metric -> value, in the units of the printed table; `source`: where they stand.

    A metric of one suite or temperature is named with it: `pass@1 humaneval`.
    """

    figures: dict[str, dict[str, float]]
    source: str


def published(task: str | None) -> Published:
    """What the paper prints of a task; nothing for None and for a task without figures."""
    tables = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))["tables"]
    figures: dict[str, dict[str, float]] = {}
    sources = []
    for table in tables:
        if table["task"] == task:
            sources.append(f"{table['source']}, {table['table']} ({table['model']})")
            for method, row in table["rows"].items():
                figures[method] = (figures[method] if method in figures else {}) | row
    return Published(figures, "; ".join(sources))
