"""Pages of the site that are made from the code: the README, every key of a config, and the Python interface."""

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import sparsepo

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: Any) -> Files:
    pages = {"index.md": home(), "configuration.md": configuration(), "api.md": api()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def home() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")


def configuration() -> str:
    """One table for each section of the config, from its JSON schema."""
    schema = json.loads((ROOT / "schemas" / "config.schema.json").read_text(encoding="utf-8"))
    parts = ["# Every key of a config", schema["description"], table(schema)]
    for name, section in schema["$defs"].items():
        if section.get("properties"):
            parts += [f"## {name}", section.get("description", ""), table(section)]
    return "\n\n".join(parts)


def table(section: dict[str, Any]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = section.get("required", [])
    for key, value in section["properties"].items():
        default = "required" if key in required else f"`{json.dumps(value.get('default'))}`"
        cells = f"`{key}`", kind(value), default, value.get("description", "")
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |")
    return "\n".join(rows)


def kind(value: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "const" in value or "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    if choices := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(kind(choice) for choice in choices))
    if value.get("type") == "array":
        return f"list of {kind(value.get('items', {}))}"
    return {"object": "mapping", "null": "nothing"}.get(value.get("type", ""), value.get("type", "any"))


def api() -> str:
    places = sorted(sparsepo.public_modules().items())
    return "\n\n".join(["# Python interface", *(f"::: {module}.{name}" for name, module in places)])
