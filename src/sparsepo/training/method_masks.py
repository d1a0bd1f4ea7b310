"""The mask heads of a method for a reference: built, saved beside a policy, and loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights

from sparsepo.data.records import write_json
from sparsepo.methods.registry import METHODS
from sparsepo.models.limits import text_config
from sparsepo.objective.mask_builder import Masks, build_masks
from sparsepo.runtime.errors import UserError


def build_method_masks(method: str, reference: Any, hyper: Mapping[str, Any]) -> Masks | None:
    """New mask heads, or None for a method without; `hyper` overrides the defaults of the table."""
    parameters = METHODS[method].split_parameters(hyper)[1]
    config = text_config(reference)
    return build_masks(config.num_hidden_layers, config.hidden_size, **parameters) if parameters else None


def save_masks(masks: Masks, method: str, hyper: Mapping[str, Any], folder: Path) -> None:
    """Write `masks.json` and `masks.safetensors`."""
    write_json(folder / "masks.json", {"method": method, "hyper": hyper})
    save_weights(masks, str(folder / "masks.safetensors"))


def load_masks(folder: str | Path, reference: Any) -> Masks | None:
    """The mask heads that were saved in a folder, or None. Raises UserError for a reference that they do not fit."""
    folder = Path(folder)
    if not (folder / "masks.json").exists():
        return None
    saved = json.loads((folder / "masks.json").read_text(encoding="utf-8"))
    masks = build_method_masks(saved["method"], reference, saved["hyper"])
    try:
        load_weights(masks, str(folder / "masks.safetensors"))
    except (RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{folder}/masks.safetensors: mask heads of another reference model ({reason})") from None
    return masks
