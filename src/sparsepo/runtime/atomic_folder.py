"""What a model folder must hold, asked before any job starts, so without torch; and how it comes to hold it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsepo.runtime.errors import naming

STAGE = ".saving"


def check_model_folder(folder: Path, pickled_weights: bool = False) -> str | None:
    """Why `folder` is not a Hugging Face model folder with safetensors weights, in one sentence; None if it is one.

    With `pickled_weights` those of torch.save will do.
    """
    if not os.path.isdir(folder):  # Path.is_dir raises for a name that is too long
        return f"{folder}: no such folder; a Hugging Face model folder is expected"
    if not (folder / "config.json").is_file():
        return f"{folder}: not a model folder: it has no config.json"
    if not list(folder.glob("*.safetensors")) and not (pickled_weights and list(folder.glob("*.bin"))):
        unless = "" if pickled_weights else "; pickled weights are refused unless the config says pickled_weights: true"
        return f"{folder}: not a model folder: it has no *.safetensors weights{unless}"
    return None


def reach_the_disk(folder: Path) -> None:
    """Return when every file of a folder would be there after a loss of power."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A place to write a model's files to, which are put into `folder` when all are written, `config.json` last.

    Without its config a folder is no model to anybody, so a reader meets the former model, none or the new one. Other
    files of `folder` stay. Where writing fails, so does the former model.
    """
    folder = Path(folder)
    stage = folder / STAGE
    shutil.rmtree(stage, ignore_errors=True)  # of a process that was killed
    stage.mkdir(parents=True)
    try:
        with naming(folder):
            yield stage
            reach_the_disk(stage)
        (folder / "config.json").unlink(missing_ok=True)
        for path in sorted(stage.iterdir(), key=lambda path: path.name == "config.json"):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
