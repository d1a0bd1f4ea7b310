"""What a model folder must hold; asked before any job starts, so without torch."""

from pathlib import Path


def check_model_folder(folder: Path) -> str | None:
    """Why `folder` is not a Hugging Face model folder with safetensors weights, in one sentence; None if it is one."""
    if not folder.is_dir():
        return f"{folder}: no such folder; a Hugging Face model folder is expected"
    if not (folder / "config.json").is_file():
        return f"{folder}: not a model folder: it has no config.json"
    if not list(folder.glob("*.safetensors")):
        return f"{folder}: not a model folder: it has no *.safetensors weights (pickled weights are refused)"
    return None
