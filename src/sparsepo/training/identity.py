"""What determines the result of a run, so that the folder of one run never answers for another."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsepo.data.records import write_json
from sparsepo.runtime.errors import UserError

IDENTITY_FILE = "run_identity.json"
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
HOW_COMPUTED = {
    *("micro_batch_size", "micro_batch_tokens", "gradient_checkpointing", "layout", "gradients", "compile"),
    *("reference", "num_processes", "num_machines", "accelerate", "log_every", "checkpoint_every", "together"),
}
"""Keys of a config that change time, memory and logs, and the result by rounding only."""
NOT_COMPUTED_WITH = ("_name_or_path", "architectures", "dtype", "transformers_version", "use_cache")
"""Of a model's config: loading and saving change them."""


def claim_folder(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write the parts of this run's identity to `folder`.

    Raises UserError, naming what differs, if another run has trained there.
    """
    path = folder / IDENTITY_FILE
    if path.exists():
        other = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in {**other, **parts} if other.get(name) != parts.get(name)]
        if differing:
            raise UserError(f"{folder} is of another run ({', '.join(differing)} differ): take another folder")
    elif any(folder.glob("checkpoint-*")):
        raise UserError(f"{folder} has checkpoints of an unknown run: take another folder")
    write_json(path, parts)


def identity_parts(config: Any, seed: int, **parts: Any) -> dict[str, Any]:
    """Name -> value or hash: the seed, each key of the config that changes more than rounding, and `parts`.

    A mapping becomes a part for each of its keys; a model its `model_hash`; lists, as of token ids, a hash.
    """
    flat = {"seed": seed, **_keys("config", config.model_dump(mode="json", exclude=HOW_COMPUTED))}
    for name, part in parts.items():
        if isinstance(part, Mapping):
            flat |= _keys(name, part)
        elif isinstance(part, torch.nn.Module):
            flat[name] = model_hash(part)
        else:
            flat[name] = text_hash(part) if isinstance(part, list) else part
    return json.loads(json.dumps(flat, default=str))


def _keys(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in values.items()}


def text_hash(value: Any) -> str:
    """16 hex digits of a value's JSON; of objects that JSON does not know the fields, or the text."""
    text = json.dumps(value, default=lambda other: getattr(other, "__dict__", None) or str(other))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@torch.no_grad()
def model_hash(model: Any) -> str:
    """16 hex digits of a model's config and weights, cheap: of each tensor its shape and the sum of its bits.

    Sums of integers are exact, in any order: equal on every machine.
    """
    config = json.loads(
        model.config.to_json_string(use_diff=False),
        object_hook=lambda values: {key: value for key, value in values.items() if key not in NOT_COMPUTED_WITH},
    )
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    weights = {name: [list(value.shape), str(value.dtype), _weight_checksum(value)] for name, value in tensors.items()}
    return text_hash([config, weights])


def _weight_checksum(value: Tensor) -> int:
    return int(value.view(INTEGERS[value.element_size()]).sum(dtype=torch.int64))
