"""The method table of README.md, generated from the code: `python -m sparsepo.workflow.readme_table` rewrites it."""

from pathlib import Path

from sparsepo.data.records import write_text
from sparsepo.methods.registry import METHODS

BEGIN, END = "<!-- methods: generated, do not edit -->", "<!-- end of methods -->"


def method_table() -> str:
    """One row a method: name in a config, minimised loss per pair, parameters with defaults, source."""
    rows = ["| method | loss of a pair | parameters (default) | source |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        own = set(method.used_parameters(method.mask({}))) - set(method.training_keys)
        parameters = ", ".join(f"{key} ({_shown(value)})" for key, value in method.parameters.items() if key in own)
        rows.append(f"| `{name}` | {method.equation.replace('|', chr(92) + '|')} | {parameters} | {method.source} |")
    return "\n".join(rows)


def _shown(value: object) -> str:
    return "+".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def with_table(text: str) -> str:
    """`text` with what stands between the two marks replaced by the table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{method_table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = Path(__file__).resolve().parents[3] / "README.md"
    write_text(readme, with_table(readme.read_text(encoding="utf-8")))
