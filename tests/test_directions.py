"""Dependencies point one way: objective <- data, models <- training, sampling <- evaluation <- on_policy <- report."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "sparsepo"

# what each part may not import, directly
FORBIDDEN = {
    "objective": (
        "transformers",
        "datasets",
        "data",
        "models",
        "training",
        "sampling",
        "evaluation",
        "report",
        "config",
    ),
    "data": ("training", "sampling", "evaluation", "on_policy", "report"),
    "training": ("sampling", "evaluation", "on_policy", "report"),
    "sampling": ("training", "evaluation", "on_policy", "report"),
    "evaluation": ("on_policy", "report"),
    "on_policy": ("report",),
    "report": ("torch", "transformers", "training", "sampling", "models"),
}


def imported(path: Path) -> set[str]:
    """Top-level packages, and parts of sparsepo, that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("sparsepo.").split(".")[0] for name in names}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_imports_only_what_lies_before_it(part):
    files = sorted((SOURCE / part).glob("*.py"))
    assert len(files) > 1
    wrong = {path.name: sorted(imported(path) & set(FORBIDDEN[part])) for path in files}
    assert not {name: found for name, found in wrong.items() if found}


def test_nothing_in_the_package_imports_snakemake():
    assert not [path for path in SOURCE.rglob("*.py") if "snakemake" in imported(path)]


def test_losses_and_masks_read_no_config():
    assert all("config" not in imported(SOURCE / "objective" / f"{name}.py") for name in ("losses", "masks", "terms"))
