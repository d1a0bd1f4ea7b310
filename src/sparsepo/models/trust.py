"""What may come with a model beside tensors: pickled weights and code, neither of them unless a config says so."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from transformers import PreTrainedConfig

from sparsepo.runtime.errors import UserError, one_line
from sparsepo.runtime.result_cache import file_hash

OPTIONS = ("trust_remote_code", "pickled_weights")
"""What the `model` section of a config may allow."""


def keywords(*, pickled_weights: bool = False, trust_remote_code: bool = False) -> dict[str, Any]:
    """Keywords of `from_pretrained`: safetensors unless pickled weights are allowed, and of those tensors only."""
    given = {"use_safetensors": None if pickled_weights else True, "weights_only": True}
    return given | {"trust_remote_code": trust_remote_code}


def own_code(name: str | Path, revision: str | None = None) -> list[str]:
    """The modules that config.json of a hub id or folder asks for, as in `modeling_tiny.TinyLM`; none as a rule.

    Raises UserError where they lie in another repository, which nobody named.
    """
    named = PreTrainedConfig.get_config_dict(str(name), revision=revision)[0].get("auto_map") or {}
    modules = sorted({str(module) for module in named.values()}) if isinstance(named, dict) else [str(named)]
    foreign = [module for module in modules if "--" in module]
    if foreign:
        raise UserError(f"{name}: config.json asks for code of another repository ({one_line(foreign[0], 100)})")
    return modules


def announce(name: str | Path, revision: str) -> None:
    """Say in the log whose code is about to run; nothing where the model brings none."""
    modules = own_code(name, None if Path(name).is_dir() else revision)
    if modules:
        named = one_line(", ".join(modules), 200)
        print(f"trust_remote_code: code of {name} at revision {revision} runs ({named})", flush=True)


def content(folder: Path) -> str:
    """The hashes of the Python files of a folder, which are its revision."""
    return " ".join(f"{path.name}:{file_hash(path)}" for path in sorted(folder.glob("*.py")))


def refusal(name: str | Path, error: Exception, trusted: bool, revision: str | None = None) -> str | None:
    """The sentence for a model that cannot be loaded because what it brings is not allowed; None for other errors."""
    if isinstance(error, UnpicklingError):
        return f"{name}: its pickled weights hold more than tensors, and nothing but tensors is read of them"
    try:
        modules = [] if trusted else own_code(name, revision)
    except (OSError, ValueError, KeyError, AttributeError):
        modules = []
    if modules:
        named = one_line(", ".join(modules), 200)
        return (
            f"{name}: cannot be loaded without the code that it brings ({named}), "
            "which runs only if the config says model.trust_remote_code: true"
        )
    return None
