"""Configs that `sparsepo init` writes."""

from pathlib import Path

from sparsepo.runtime.errors import UserError

TEMPLATES = {
    "chat": "a file of chats, each with a chosen and a rejected answer, and an instruct model",
    "texts": "a file of texts with labels: SFT, then pairs by a classifier that is fitted to the labels",
    "prompts": "a file of prompts, and a reward that is your own Python function",
    "code": "programming problems: programs that pass their tests against programs that fail",
}
"""Name of a template -> the data that it is for."""
BESIDE = {"prompts": ["my_reward.py"]}
"""Further files of a template."""


def write_template(name: str, folder: Path) -> list[str]:
    """Write a template and the files beside it into a folder; returns their names, the config first.

    Raises UserError, and writes nothing, if one of the files exists.
    """
    files = [f"{name}.yaml", *BESIDE.get(name, [])]
    for file in files:
        if (folder / file).exists():
            raise UserError(f"{file}: exists already, and is not overwritten; move it, or start in another folder")
    for file in files:
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        (folder / file).write_text(text, encoding="utf-8")
    return files
