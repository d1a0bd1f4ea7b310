"""The tables of methods in README.md and docs/methods.md, generated: `python -m sparsepo.workflow.readme_table`."""

from pathlib import Path

from sparsepo.data.records import write_text
from sparsepo.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[3]
BEGIN, END = "<!-- methods: generated, do not edit -->", "<!-- end of methods -->"


def short_table() -> str:
    """Two columns: names in a config, and the source that they have in common."""
    names: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        names.setdefault(method.source, []).append(f"`{name}`")
    rows = [f"| {', '.join(same)} | {source} |" for source, same in names.items()]
    return "\n".join(["| method | source |", "|---|---|", *rows])


def full_table() -> str:
    """Three columns: name in a config, loss of a pair, parameters with defaults."""
    rows = ["| method | loss of a pair | parameters (default) |", "|---|---|---|"]
    for name, method in METHODS.items():
        used = set(method.used_parameters(method.mask({}))) - set(method.training_keys)
        parameters = [f"{key} ({_default(value)})" for key, value in method.parameters.items() if key in used]
        equation = method.equation.replace("|", r"\|")
        rows.append(f"| `{name}` | {equation} | {', '.join(parameters)} |")
    return "\n".join(rows)


def _default(value: object) -> str:
    if value is None:
        return "see the mask"
    return f"{value:g}" if isinstance(value, float) else str(value)


TABLES = {"README.md": short_table, "docs/methods.md": full_table}
"""Page -> the table that stands between its two marks."""


def with_table(page: str) -> str:
    """The text of a page of TABLES, with its table replaced by the present one."""
    before, rest = (ROOT / page).read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n{TABLES[page]()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    for page in TABLES:
        write_text(ROOT / page, with_table(page))
