"""Model folders: the check that one is complete, without torch, and writing one so that it is never half there."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sparsepo.runtime.errors import UserError, add_path_to_disk_error, missing_reason
from sparsepo.runtime.files import CHECKSUMS, checksum_path, file_hash, sync

TEMPORARY = ".saving"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
MARKS = ("config.json", ADAPTER_CONFIG)
"""A folder without one of these files is not taken for a model, or for an adapter."""
MAX_HEADER = 16 << 20
"""Bytes of a config, or of the header of a safetensors file: enough for a hundred thousand tensors."""
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
OF_ONE_KIND = {"model.safetensors", ADAPTER_WEIGHTS, "base_loading.json", *MARKS}
"""Files that a model and an adapter in its place do not share."""


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter of peft without its base model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None where there is none, or the file is larger than any config of a model."""
    try:
        if path.is_file() and path.stat().st_size <= MAX_HEADER:
            content = json.loads(path.read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else None
    except (OSError, ValueError, RecursionError):
        pass
    return None


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The content of adapter_config.json. Raises UserError where that is no config of an adapter with a base."""
    config = read_mapping(folder / ADAPTER_CONFIG) or {}
    if not config.get("base_model_name_or_path"):
        raise UserError(f"{folder}: {ADAPTER_CONFIG} names no base model (base_model_name_or_path)")
    return config


def weights_file(folder: Path) -> Path:
    """The weights in the folder of a run: of its adapter, or of the whole model."""
    return folder / (ADAPTER_WEIGHTS if is_adapter_folder(folder) else "model.safetensors")


def check_model_folder(folder: Path, pickled_weights: bool = False) -> str | None:
    """An error message if `folder` is no Hugging Face model folder with safetensors weights; None if it is one.

    A folder of an adapter is one too. With `pickled_weights`, files of torch.save are allowed too. Only config.json
    and the headers of weights are read, and neither where it is too large to be one.
    """
    if not os.path.isdir(folder):  # Path.is_dir raises an error for a name that is too long
        return f"{folder}: {missing_reason(folder, 'folder')}; a Hugging Face model folder is expected"
    special = [path.name for path in folder.iterdir() if path.exists() and not (path.is_file() or path.is_dir())]
    if special:
        return f"{folder}: {min(special)} is a pipe, socket or device, which no model has: remove it"
    if all((folder / name).is_file() for name in MARKS):
        return f"{folder}: holds a model (config.json) and an adapter ({ADAPTER_CONFIG}): remove one of these files"
    tensors = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors += count_tensors(path)
        except (OSError, ValueError, SafetensorError) as error:
            return f"{path}: not safetensors, or not all of it ({error}); download or copy it again"
    if is_adapter_folder(folder):
        has_weights = (folder / ADAPTER_WEIGHTS).is_file()
        return None if has_weights else f"{folder}: not the folder of an adapter: it has no {ADAPTER_WEIGHTS}"
    if not (folder / "config.json").is_file():
        return f"{folder}: not a model folder: it has no config.json"
    if not list(folder.glob("*.safetensors")) and not (pickled_weights and list(folder.glob("*.bin"))):
        unless = "" if pickled_weights else "; pickled weights are refused unless the config says pickled_weights: true"
        return f"{folder}: not a model folder: it has no *.safetensors weights{unless}"
    config = read_mapping(folder / "config.json")
    if config is None:
        return f"{folder}: config.json is not the config of a model (JSON of at most {MAX_HEADER >> 20} MB)"
    layers = [value for name in LAYERS if type(value := config.get(name)) is int]
    if tensors and layers and max(layers) > tensors:
        return f"{folder}: config.json says {max(layers):,} layers, and its weights are {tensors:,} tensors in all"
    return None


def count_tensors(path: Path) -> int:
    """Raises an error for a file that is not whole; ValueError for one whose header would take long to read."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header would have {size:,} bytes")
    with safe_open(path, "numpy") as file:
        return len(file.keys())


def share_files(folder: Path) -> None:
    """Give every file the mode that the umask gives new files; safetensors writes weights for their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder to write a model to; its files are moved into `folder` when all are written.

    `config.json`, of an adapter `adapter_config.json`, is removed first and moved last. A folder without it is not
    taken for a model, so a reader finds the old model, none, or the new one. Of an old model all files go that the new
    one, of the other kind, does not have; other files of `folder` stay. If writing fails, the old model stays. All
    files are on the disk before they are moved, and have a checksum, see `check_folder`.
    """
    folder = Path(folder)
    temporary = folder / TEMPORARY
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    (temporary / CHECKSUMS).mkdir(parents=True)
    try:
        with add_path_to_disk_error(folder):
            yield temporary
            share_files(temporary)
            for path in filter(Path.is_file, temporary.iterdir()):
                if not checksum_path(path).exists():
                    checksum_path(path).write_text(file_hash(path), encoding="ascii")
            for path in temporary.rglob("*"):
                sync(path)
        new = {path.name for path in temporary.iterdir()}
        for name in (*MARKS, *(OF_ONE_KIND - new if new.intersection(MARKS) else ())):
            (folder / name).unlink(missing_ok=True)
        sync(folder)
        (folder / CHECKSUMS).mkdir(exist_ok=True)
        for path in (temporary / CHECKSUMS).iterdir():
            os.replace(path, folder / CHECKSUMS / path.name)
        (temporary / CHECKSUMS).rmdir()
        sync(folder / CHECKSUMS)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name in MARKS):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            if path.name in MARKS:
                sync(folder)
            os.replace(path, target)
        sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
