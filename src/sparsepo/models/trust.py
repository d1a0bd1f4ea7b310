"""What a model may bring besides tensors, pickled weights and code: neither is used unless the config allows it."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from transformers import PreTrainedConfig

from sparsepo.runtime.errors import UserError, one_line
from sparsepo.runtime.files import file_hash

TRUST_OPTIONS = ("trust_remote_code", "pickled_weights")
"""What the `model` section of a config may allow."""


def trust_kwargs(*, pickled_weights: bool = False, trust_remote_code: bool = False) -> dict[str, Any]:
    """Keywords of `from_pretrained`: safetensors unless pickled weights are allowed, and of pickles tensors only."""
    return {
        "use_safetensors": None if pickled_weights else True,
        "weights_only": True,
        "trust_remote_code": trust_remote_code,
    }


def custom_modules(name: str | Path, revision: str | None = None) -> list[str]:
    """The Python classes of its own that config.json of a hub id or folder names, as in `modeling_tiny.TinyLM`.

    Raises UserError where they are in another repository, which the config does not name.
    """
    named = PreTrainedConfig.get_config_dict(str(name), revision=revision)[0].get("auto_map") or {}
    modules = sorted({str(module) for module in named.values()}) if isinstance(named, dict) else [str(named)]
    foreign = [module for module in modules if "--" in module]
    if foreign:
        raise UserError(f"{name}: config.json names code of another repository ({one_line(foreign[0], 100)})")
    return modules


def log_custom_code(name: str | Path, revision: str) -> None:
    """Print whose code is about to run, if the model has code of its own."""
    modules = custom_modules(name, None if Path(name).is_dir() else revision)
    if modules:
        named = one_line(", ".join(modules), 200)
        print(f"trust_remote_code: code of {name} at revision {revision} runs ({named})", flush=True)


def code_hashes(folder: Path) -> str:
    """Hashes of the Python files of a folder, in place of a revision."""
    return " ".join(f"{path.name}:{file_hash(path)}" for path in sorted(folder.glob("*.py")))


def trust_error(name: str | Path, error: Exception, trusted: bool, revision: str | None = None) -> str | None:
    """The error message for a model that needs what the config does not allow; None for other errors."""
    if isinstance(error, UnpicklingError):
        return f"{name}: its pickled weights contain more than tensors, and only tensors are read"
    try:
        modules = [] if trusted else custom_modules(name, revision)
    except (OSError, ValueError, KeyError, AttributeError):
        modules = []
    if modules:
        named = one_line(", ".join(modules), 200)
        return (
            f"{name}: cannot be loaded without its own code ({named}), "
            "which runs only if the config says model.trust_remote_code: true"
        )
    return None
