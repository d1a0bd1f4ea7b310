"""The accelerate config of a run on several processes: what may stand in it, told in words before any job starts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

KINDS = ("MULTI_GPU", "FSDP", "DEEPSPEED")
FSDP = {"fsdp_version": 2, "fsdp_cpu_ram_efficient_loading": False}
"""What FSDP must be told: the reference is whole on every process, which therefore loads all of it."""


def read_accelerate(path: Path) -> dict[str, Any] | None:
    """The mapping in an accelerate config, or None where there is none to be read."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def accelerate_mistakes(path: Path, processes: int) -> Iterator[str]:
    """What is wrong with an accelerate config for so many processes on one machine, a sentence each."""
    found = read_accelerate(path)
    if found is None:
        missing = "no such file" if not path.is_file() else "not a mapping in YAML, as `accelerate config` writes it"
        yield f"{path}: {missing} (paths are relative to the working directory)"
        return
    kind, said = found.get("distributed_type"), found.get("num_processes", processes)
    if kind not in KINDS:
        yield f"{path}: distributed_type must be one of {', '.join(KINDS)}, not {kind}"
    if processes == 1:
        yield f"{path} is for several processes: give num_processes (how many) too, or leave accelerate out"
    elif said != processes:
        yield f"{path} says num_processes: {said}, and num_processes is {processes}: leave it out there"
    if found.get("num_machines", 1) != 1:
        yield f"{path} says num_machines: {found['num_machines']}: a run takes the processes of one machine"
    if kind == "FSDP":
        yield from _fsdp_mistakes(path, found.get("fsdp_config"))


def _fsdp_mistakes(path: Path, given: Any) -> Iterator[str]:
    given = given if isinstance(given, dict) else {}
    for name, value in FSDP.items():
        if given.get(name) != value:
            yield f"{path}: fsdp_config must say {name}: {str(value).lower()}"
    if given.get("fsdp_activation_checkpointing"):
        yield f"{path} says fsdp_activation_checkpointing: write gradient_checkpointing: true in the config instead"


def is_sharded(found: Mapping[str, Any]) -> bool:
    """Whether no process has all weights of the policy: FSDP, and DeepSpeed unless its stage is said to be below 3."""
    if found["distributed_type"] == "DEEPSPEED":
        given = found.get("deepspeed_config")
        return not isinstance(given, dict) or given.get("zero_stage", 3) not in (0, 1, 2)
    return found["distributed_type"] == "FSDP"
