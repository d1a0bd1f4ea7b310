"""The methods in README.md and docs/methods.md, generated: `python -m sparsepo.workflow.readme_table`."""

import textwrap
from pathlib import Path

from sparsepo.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[3]
BEGIN, END = "<!-- methods: generated, do not edit -->", "<!-- end of methods -->"


def name_list() -> str:
    """The names in a config, as one paragraph."""
    return textwrap.fill(", ".join(f"`{name}`" for name in METHODS), 120, break_long_words=False) + "."


def full_table() -> str:
    """Four columns: name in a config, loss of a pair, parameters with defaults, source."""
    rows = ["| method | loss of a pair | parameters (default) | source |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        used = set(method.used_parameters(method.mask({}))) - set(method.training_keys)
        parameters = [f"{key} ({_default(value)})" for key, value in method.parameters.items() if key in used]
        equation = method.equation.replace("|", r"\|")
        rows.append(f"| `{name}` | {equation} | {', '.join(parameters)} | {method.source} |")
    return "\n".join(rows)


def _default(value: object) -> str:
    if value is None:
        return "see the mask"
    return f"{value:g}" if isinstance(value, float) else str(value)


TABLES = {"README.md": name_list, "docs/methods.md": full_table}
"""Page -> what stands between its two marks."""


def with_table(page: str) -> str:
    """The text of a page of TABLES, with what stands between its marks replaced by the present state."""
    before, rest = (ROOT / page).read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n{TABLES[page]()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    for page in TABLES:
        (ROOT / page).write_text(with_table(page), encoding="utf-8")
