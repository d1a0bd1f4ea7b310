"""The accelerate config file of a run on several processes: which keys it may have, checked before any job starts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sparsepo.runtime.errors import missing_reason

KINDS = ("MULTI_GPU", "FSDP", "DEEPSPEED")
FSDP = {"fsdp_version": 2, "fsdp_cpu_ram_efficient_loading": False}
"""Keys that FSDP needs: every process loads the whole reference."""


def read_accelerate(path: Path) -> dict[str, Any] | None:
    """The mapping in an accelerate config file; None if the file holds none or cannot be read."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def accelerate_errors(path: Path, num_processes: int, num_machines: int) -> Iterator[str]:
    """Error messages about an accelerate config file for so many processes on so many machines."""
    content = read_accelerate(path)
    if content is None:
        no_mapping = "not a mapping in YAML, as `accelerate config` writes it"
        reason = no_mapping if path.is_file() else missing_reason(path, "file")
        yield f"{path}: {reason} (paths are relative to the working directory)"
        return
    kind = content.get("distributed_type")
    if kind not in KINDS:
        yield f"{path}: distributed_type must be one of {', '.join(KINDS)}, not {kind}"
    if num_processes == 1:
        yield f"{path} is for several processes: give num_processes (how many) too, or leave accelerate out"
    for key, value in {"num_processes": num_processes, "num_machines": num_machines}.items():
        if num_processes > 1 and content.get(key, value) != value:
            yield f"{path} says {key}: {content[key]}, and {key} is {value}: leave it out there"
    if kind == "FSDP":
        yield from _fsdp_errors(path, content.get("fsdp_config"))


def _fsdp_errors(path: Path, section: Any) -> Iterator[str]:
    section = section if isinstance(section, dict) else {}
    for key, value in FSDP.items():
        if section.get(key) != value:
            yield f"{path}: fsdp_config must say {key}: {str(value).lower()}"
    if section.get("fsdp_activation_checkpointing"):
        yield f"{path} says fsdp_activation_checkpointing: write gradient_checkpointing: true in the config instead"


def is_sharded(accelerate: Mapping[str, Any]) -> bool:
    """Whether no process holds all weights of the policy: FSDP, and DeepSpeed unless its stage is given as below 3."""
    if accelerate["distributed_type"] == "DEEPSPEED":
        section = accelerate.get("deepspeed_config")
        return not isinstance(section, dict) or section.get("zero_stage", 3) not in (0, 1, 2)
    return accelerate["distributed_type"] == "FSDP"
