"""The content of the files and folders that a config names: in the settings of a job, whose change Snakemake notices.

They are no inputs of rules, of which Snakemake compares the times, and of large ones these alone.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sparsepo.config.accelerate import read_accelerate
from sparsepo.data.records import read_json, write_json
from sparsepo.runtime.atomic_folder import MARKS, is_adapter_folder, read_adapter_config
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.files import LARGE, bytes_hash, file_hash

KEYS = {
    "path",
    "id",
    "model",
    "conv",
    "accelerate",
    "chat_template",
    "mbpp_plus",
    "humaneval_plus",
    "mbpp",
    "humaneval",
}
"""Keys of settings whose value is the path of a file or folder, or may be one, as `model` in place of a hub id."""
MODEL_SUFFIXES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".py", ".tiktoken"}
STORE = Path(".snakemake/sparsepo_file_hashes.json")
"""Hashes of large files, so that the next plan need not read them again."""


def user_file_hashes(settings: Any, hash_of: Callable[[Path], str]) -> dict[str, str]:
    """Path -> hash of each file or folder of this machine that settings name."""
    return {str(path): hash_of(path) for path in sorted(set(_named_paths(settings)))}


def _named_paths(value: Any, key: str = "") -> Iterator[Path]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _named_paths(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _named_paths(each, key)
    elif key in KEYS and isinstance(value, str) and os.path.exists(value):
        yield Path(value)
        if key == "accelerate":
            section = (read_accelerate(Path(value)) or {}).get("deepspeed_config")
            yield from _named_paths((section or {}).get("deepspeed_config_file"), "path")


def path_hash(path: Path) -> str:
    """16 hex digits of the content of a file, of YAML without comments, or of the names and contents of a folder."""
    if path.is_file():
        content = read_accelerate(path) if path.suffix in (".yaml", ".yml") else None
        return bytes_hash(repr(content).encode()) if content else _known_hash(path)
    return bytes_hash("\n".join(f"{file.name} {_known_hash(file)}" for file in files_of(path)).encode())


def files_of(folder: Path) -> list[Path]:
    """What counts of a folder: of a model what it is loaded from, also of the base of an adapter; else all files."""
    if not any((folder / mark).is_file() for mark in MARKS):
        return sorted(filter(Path.is_file, folder.rglob("*")))
    files = [path for path in sorted(folder.iterdir()) if path.suffix in MODEL_SUFFIXES and path.name != "run.json"]
    if is_adapter_folder(folder):
        base = Path(read_adapter_config(folder)["base_model_name_or_path"])
        files += files_of(base) if base.is_dir() else []
    return files


def _known_hash(path: Path) -> str:
    """`file_hash`, which of a large file is read from STORE while nothing has touched the file."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return file_hash(path)
    state, known = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino], _stored_hashes(Path.cwd())
    name = str(path.absolute())
    if known.get(name, [None])[0] != state:
        known[name] = [state, file_hash(path)]
        if time.time() - stat.st_ctime > 2:  # one that is just being written may change without another time
            write_json(STORE, known)
    return known[name][1]


@cache
def _stored_hashes(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / STORE)
    except UserError:
        return {}
