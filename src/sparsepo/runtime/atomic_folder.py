"""Model folders: the check that one is complete, without torch, and writing one so that it is never half there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsepo.runtime.errors import add_path_to_disk_error, missing_reason

TEMPORARY = ".saving"


def check_model_folder(folder: Path, pickled_weights: bool = False) -> str | None:
    """An error message if `folder` is no Hugging Face model folder with safetensors weights; None if it is one.

    With `pickled_weights`, files of torch.save are allowed too.
    """
    if not os.path.isdir(folder):  # Path.is_dir raises an error for a name that is too long
        return f"{folder}: {missing_reason(folder, 'folder')}; a Hugging Face model folder is expected"
    if not (folder / "config.json").is_file():
        return f"{folder}: not a model folder: it has no config.json"
    if not list(folder.glob("*.safetensors")) and not (pickled_weights and list(folder.glob("*.bin"))):
        unless = "" if pickled_weights else "; pickled weights are refused unless the config says pickled_weights: true"
        return f"{folder}: not a model folder: it has no *.safetensors weights{unless}"
    return None


def sync_to_disk(folder: Path) -> None:
    """Flush every file of a folder to the disk, so that it survives a loss of power."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


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

    `config.json` is removed first and moved last. A folder without it is not taken for a model, so a reader finds the
    old model, none, or the new one. Other files of `folder` stay. If writing fails, the old model stays.
    """
    folder = Path(folder)
    temporary = folder / TEMPORARY
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir(parents=True)
    try:
        with add_path_to_disk_error(folder):
            yield temporary
            sync_to_disk(temporary)
        share_files(temporary)
        (folder / "config.json").unlink(missing_ok=True)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == "config.json"):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
