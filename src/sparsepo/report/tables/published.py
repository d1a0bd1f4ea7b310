"""Numbers that papers print, read from `published.yaml` beside this file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from sparsepo.config.grids import parse_value


@dataclass(frozen=True)
class Published:
    """`rows`: name of a row -> metric -> value, in the units of the printed table; `source`: where they are printed.

    A row is named by its method, or by that and by a parameter, as in `sparsepo_common mask=last`. A metric of one
    suite or temperature is named with it: `pass@1 humaneval`.
    """

    rows: Mapping[str, Mapping[str, float]]
    source: str

    def row(self, method: str, params: str) -> Mapping[str, float] | None:
        """The row of a method at a setting, as in `beta=0.1, mask=last`: that of its parameter, else of the method."""
        own = dict(param.split("=", 1) for param in params.split(", ") if "=" in param)
        for name, values in self.rows.items():
            row_method, _, param = name.partition(" ")
            key, _, value = param.partition("=")
            if row_method == method and key in own and parse_value(key, own[key]) == parse_value(key, value):
                return values
        return self.rows.get(method)


def load_published(table: str | None) -> Published:
    """What the paper prints in a table, by its name in `published.yaml`; nothing for None."""
    if table is None:
        return Published({}, "")
    printed = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    found = printed["tables"][table]
    rows = {
        name: {metric: value for metric, value in zip(found["columns"], values, strict=True) if value is not None}
        for name, values in found["rows"].items()
    }
    return Published(rows, f"{printed['source']}, {found['table']} ({found['model']})")
