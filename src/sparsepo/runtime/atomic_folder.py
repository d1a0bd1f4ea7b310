"""Model folders: the check that one is complete, without torch, and writing one so that it is never half there."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsepo.runtime.errors import UserError, add_path_to_disk_error, missing_reason
from sparsepo.runtime.files import CHECKSUMS, checksum_path, file_hash, sync

TEMPORARY = ".saving"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
MARKS = ("config.json", ADAPTER_CONFIG)
"""A folder without one of these files is not taken for a model, or for an adapter."""
OF_ONE_KIND = {"model.safetensors", ADAPTER_WEIGHTS, "base_loading.json", *MARKS}
"""Files that a model and an adapter in its place do not share."""


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter of peft without its base model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The content of adapter_config.json. Raises UserError where that is no config of an adapter with a base."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or not config.get("base_model_name_or_path"):
        raise UserError(f"{folder}: {ADAPTER_CONFIG} names no base model (base_model_name_or_path)")
    return config


def weights_file(folder: Path) -> Path:
    """The weights in the folder of a run: of its adapter, or of the whole model."""
    return folder / (ADAPTER_WEIGHTS if is_adapter_folder(folder) else "model.safetensors")


def check_model_folder(folder: Path, pickled_weights: bool = False) -> str | None:
    """An error message if `folder` is no Hugging Face model folder with safetensors weights; None if it is one.

    A folder of an adapter is one too. With `pickled_weights`, files of torch.save are allowed too.
    """
    if not os.path.isdir(folder):  # Path.is_dir raises an error for a name that is too long
        return f"{folder}: {missing_reason(folder, 'folder')}; a Hugging Face model folder is expected"
    if is_adapter_folder(folder):
        has_weights = (folder / ADAPTER_WEIGHTS).is_file()
        return None if has_weights else f"{folder}: not the folder of an adapter: it has no {ADAPTER_WEIGHTS}"
    if not (folder / "config.json").is_file():
        return f"{folder}: not a model folder: it has no config.json"
    if not list(folder.glob("*.safetensors")) and not (pickled_weights and list(folder.glob("*.bin"))):
        unless = "" if pickled_weights else "; pickled weights are refused unless the config says pickled_weights: true"
        return f"{folder}: not a model folder: it has no *.safetensors weights{unless}"
    return None


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
