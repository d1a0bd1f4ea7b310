"""Checkpoints that are whole or not there: marked when complete, tied to their run, found again after a kill."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from sparsepo.data.records import write_json
from sparsepo.runtime.atomic_folder import sync_to_disk
from sparsepo.runtime.errors import UserError

MARK = "complete.json"


def mark_complete(folder: Path, identity: str) -> None:
    """Written last, when every file has reached the disk: the identity of the run and the sizes."""
    sync_to_disk(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARK]
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    write_json(folder / MARK, {"identity": identity, "sizes": sizes})


def is_complete(folder: Path, identity: str) -> bool:
    """Whether `folder` was finished, by this run (same settings, code, seed and inputs), and no file was cut since."""
    try:
        mark = json.loads((folder / MARK).read_text())
        sizes = {name: (folder / name).stat().st_size for name in mark["sizes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return mark["identity"] == identity and sizes == mark["sizes"]


def latest(root: Path, identity: str) -> Path | None:
    """The newest complete checkpoint of this run under `root`; what is stale or half-written is deleted, and said."""
    found = sorted(root.glob("checkpoint-*"), key=step_of)
    good = [folder for folder in found if is_complete(folder, identity)]
    for folder in found:
        if folder not in good:
            print(f"{folder}: half-written or from other settings, code or data; dropped", flush=True)
            shutil.rmtree(folder)
    return good[-1] if good else None


def step_of(folder: Path) -> int:
    """The optimiser step of a folder named `checkpoint-<step>`."""
    return int(folder.name.rsplit("-", 1)[1])


@contextmanager
def writing(folder: Path, step: int) -> Iterator[None]:
    """Turn a full disk (or any failure to write) into a sentence, and leave no half-written folder behind."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{folder}: the checkpoint at step {step} could not be written ({reason}); "
            "earlier checkpoints are untouched: make room on the disk and run again to go on from the last one"
        ) from None


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, each once, by name: the very ones, or of sharded ones a whole copy.

    All processes have to ask for those at once.
    """
    return {name: whole(value.detach()) for name, value in model.named_parameters() if value.requires_grad}


def whole(value: Tensor) -> Tensor:
    """A tensor, gathered onto the CPU if it is sharded over processes."""
    return value.full_tensor().to("cpu", copy=True) if isinstance(value, DTensor) else value


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put the values of such parameters back. Raises KeyError if one is missing."""
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.copy_(_like(value, weights[name]))


def _like(value: Tensor, given: Tensor) -> Tensor:
    """`given`, sharded as `value` is."""
    if not isinstance(value, DTensor):
        return given
    return distribute_tensor(given.to(value.device), value.device_mesh, value.placements)


def replace_weight(model: nn.Module, names: Sequence[str], value: Tensor) -> None:
    """Put a tensor in the place of a parameter, whatever that is, under all its names; the model can only be saved."""
    made = nn.Parameter(value, requires_grad=False)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, made)


PATIENCE = 30.0  # seconds: a process that was killed may take some to go
_HELD: list[int] = []  # descriptors, open for the life of this process


def lock_folder(folder: Path, patience: float = PATIENCE) -> None:
    """Lock a folder for this process until it ends, however it ends; it may be locked again by the same process.

    Raises UserError, naming the other process, if that does not let go within `patience` seconds. A file system that
    knows no locks has none.
    """
    path, deadline = folder / "lock", time.monotonic() + patience
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(descriptor, 200).decode(errors="replace") or "another process"
        except OSError:
            return
        else:
            if os.fstat(descriptor).st_nlink:  # else the other one has deleted it, with its folder
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                _HELD.append(descriptor)
                return
        os.close(descriptor)
        if time.monotonic() >= deadline:
            raise UserError(f"{folder}: {other} is training there; wait for its end, or end it, and run again")
        time.sleep(0.5)
