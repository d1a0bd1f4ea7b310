"""Folders of a LoRA adapter in peft's layout: the base model that it needs, and its tensors."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsepo.data.records import write_json
from sparsepo.runtime.atomic_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter_folder, read_adapter_config
from sparsepo.runtime.errors import UserError

BASE_LOADING = "base_loading.json"
"""Beside peft's files: the dtype and the bits in which the base was loaded for the training."""


class AdapterBase(NamedTuple):
    """The model that an adapter is for: a folder or a hub id, its revision, and how it was loaded, None if unknown."""

    name: str
    revision: str | None = None
    dtype: str | None = None
    quantization: str = "none"
    compute: str = "float32"

    @property
    def is_folder(self) -> bool:
        return Path(self.name).is_dir()


def read_base(folder: Path) -> AdapterBase:
    """The base of the adapter in a folder.

    A base folder that is not where it was is looked for by its name beside the adapter and beside the folders that
    hold it: results that were moved as a whole keep working. Raises UserError if it is nowhere.
    """
    config = read_adapter_config(folder)
    path = folder / BASE_LOADING
    loading = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    name = config["base_model_name_or_path"]
    if Path(name).is_absolute() and not Path(name).is_dir():
        moved = [parent / Path(name).name for parent in folder.absolute().parents]
        is_model = (place for place in moved if (place / "config.json").is_file() or is_adapter_folder(place))
        moved_to = next(is_model, None)
        if moved_to is None:
            raise UserError(
                f"{folder}: the base model of this adapter, {name}, is not there: put it back, or write where it is as "
                f"base_model_name_or_path in {ADAPTER_CONFIG}"
            )
        name = str(moved_to)
    return AdapterBase(name, config.get("revision"), **loading)


def write_base_loading(base: AdapterBase, folder: Path) -> None:
    write_json(folder / BASE_LOADING, {name: getattr(base, name) for name in ("dtype", "quantization", "compute")})


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter by their names in the model, as in `h.0.attn.c_attn.lora_A.weight`."""
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    return {name.removeprefix("base_model.model."): value for name, value in tensors.items()}


def check_can_extend(folder: Path) -> None:
    """Raises UserError unless a second LoRA on this one can be saved with it as one LoRA."""
    config = read_adapter_config(folder)
    special = [name for name in ("use_dora", "rank_pattern", "alpha_pattern", "lora_bias") if config.get(name)]
    if config.get("peft_type") != "LORA" or special or config.get("bias", "none") != "none":
        kind = special[0] if special else config.get("peft_type")
        raise UserError(
            f"{folder}: an adapter cannot be trained on top of this one ({kind}): merge it into its base first "
            "(model.merge_and_unload() of peft), and start from the merged model"
        )


def join_loras(
    first: dict[str, Tensor], first_scale: float, second: dict[str, Tensor], second_scale: float
) -> dict[str, Tensor]:
    """One LoRA of scale 1 that adds what two add: A = [A1; A2], B = [s1 B1, s2 B2]; its rank is the sum of theirs.

    Tensors by name, as in `q.lora_A.weight` (rank, in) and `q.lora_B.weight` (out, rank). A map that one of the two
    lacks is filled with zeros. Other tensors, of trained embeddings, are those of `second`, else of `first`.
    """
    ranks = [next(value.shape[0] for name, value in each.items() if ".lora_A." in name) for each in (first, second)]
    joined = {name: value for name, value in {**first, **second}.items() if ".lora_" not in name}
    for down in dict.fromkeys(name for each in (first, second) for name in each if ".lora_A." in name):
        up = down.replace(".lora_A.", ".lora_B.")
        (_, inputs), (outputs, _) = ({**first, **second}[name].shape for name in (down, up))
        downs, ups = [], []
        for tensors, scale, rank in zip((first, second), (first_scale, second_scale), ranks, strict=True):
            downs.append(tensors[down].cpu() if down in tensors else torch.zeros(rank, inputs))
            ups.append(scale * tensors[up].cpu() if up in tensors else torch.zeros(outputs, rank))
        dtype = torch.promote_types(downs[1].dtype, torch.float32)
        joined[down] = torch.cat([part.to(dtype) for part in downs], 0)
        joined[up] = torch.cat([part.to(dtype) for part in ups], 1)
    return joined


def lora_scale(config: dict[str, Any]) -> float:
    """What B A is multiplied by, of an adapter_config.json."""
    return config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
