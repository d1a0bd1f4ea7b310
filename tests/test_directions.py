"""The rooms of the package: each imports only from rooms below its own."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "sparsepo"

LEVELS = {
    "runtime": 0,
    "methods": 1,
    "objective": 2,
    "config": 2,
    "data": 2,
    "models": 3,
    "training": 4,
    "generation": 4,
    "evaluation": 5,
    "fdpg": 6,
    "report": 6,
    "monitor": 7,
    "workflow": 8,
    "preview": 9,
    "cli": 10,
}
"""A room imports from rooms of a lower level, and from data/ to objective/ beside."""
ALSO = {("data", "objective")}
WITHOUT = {
    "runtime": {"torch", "transformers"},
    "methods": {"torch", "transformers"},
    "config": {"torch", "transformers"},
    "objective": {"transformers", "datasets"},
    "report": {"torch", "transformers"},
    "monitor": {"torch", "transformers"},
    "cli": {"torch", "transformers"},
    "workflow": {"torch", "transformers"},
}
"""Packages that a room does not import when it is imported itself."""


def imports(path: Path, anywhere: bool = True) -> set[str]:
    """Dotted names of what a file imports; only at its top level unless `anywhere`."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("sparsepo.")} & set(LEVELS)


def test_every_folder_is_a_room_and_no_module_lies_beside_the_rooms():
    assert {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(LEVELS)
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py"}


@pytest.mark.parametrize("room", LEVELS)
def test_a_room_imports_only_from_rooms_below_it(room):
    files = sorted((SOURCE / room).rglob("*.py"))
    assert len(files) > 1
    wrong = {}
    for path in files:
        for other in rooms(imports(path)) - {room}:
            if LEVELS[other] >= LEVELS[room] and (room, other) not in ALSO:
                wrong.setdefault(path.relative_to(SOURCE).as_posix(), []).append(other)
    assert not wrong


@pytest.mark.parametrize("room", WITHOUT)
def test_a_room_that_holds_plain_data_or_plain_math_imports_no_heavy_library(room):
    for path in (SOURCE / room).rglob("*.py"):
        names = {name.split(".")[0] for name in imports(path, anywhere=room == "objective")}
        assert not names & WITHOUT[room], path


def test_nothing_in_the_package_imports_snakemake():
    assert not [path for path in SOURCE.rglob("*.py") if any(n.split(".")[0] == "snakemake" for n in imports(path))]
