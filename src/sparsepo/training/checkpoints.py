"""Checkpoints: marked when complete, checked when read, tied to their run, found again after a kill."""

import fcntl
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

from sparsepo.data.records import read_json, write_json
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.files import bytes_hash, file_hash, sync

COMPLETE_MARK = "complete.json"
LOGS = ("dynamics.jsonl", "frontier.jsonl")


def mark_complete(folder: Path, identity: str) -> None:
    """Write the identity of the run and hashes of all files, after these have reached the disk.

    `logs` are those beside the folder: name -> bytes until now and their hash.
    """
    (folder / COMPLETE_MARK).unlink(missing_ok=True)
    paths = sorted(folder.rglob("*"))
    for path in [*paths, folder, folder.parent]:
        sync(path)
    files = {str(path.relative_to(folder)): file_hash(path) for path in paths if path.is_file()}
    logs = {name: [len(content), bytes_hash(content)] for name, content in _logs_beside(folder).items()}
    write_json(folder / COMPLETE_MARK, {"identity": identity, "files": files, "logs": logs})


def _logs_beside(checkpoint: Path) -> dict[str, bytes]:
    paths = [checkpoint.parent / name for name in LOGS]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def is_complete(folder: Path, identity: str) -> bool:
    """Whether this run (same settings, code, seed and inputs) completed the folder, and files and logs are unchanged.

    Logs may have grown since.
    """
    try:
        mark, logs = read_json(folder / COMPLETE_MARK), _logs_beside(folder)
        if mark["identity"] != identity:
            return False
        files = {name: file_hash(folder / name) for name in mark["files"]}
        log_hashes = {name: [size, bytes_hash(logs[name][:size])] for name, (size, _) in mark["logs"].items()}
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return (mark["files"], mark["logs"]) == (files, log_hashes)


def cut_logs(folder: Path, checkpoint: Path | None) -> None:
    """Cut the logs in the folder of a run to what they were at a checkpoint; without one they are deleted."""
    logs = {} if checkpoint is None else read_json(checkpoint / COMPLETE_MARK)["logs"]
    for name in LOGS:
        if name in logs:
            os.truncate(folder / name, logs[name][0])
        else:
            (folder / name).unlink(missing_ok=True)


def latest_checkpoint(root: Path, identity: str) -> Path | None:
    """The newest complete checkpoint of this run under `root`; others are deleted, with a line in the log."""
    folders = sorted(root.glob("checkpoint-*"), key=checkpoint_step)
    complete = [folder for folder in folders if is_complete(folder, identity)]
    for folder in folders:
        if folder not in complete:
            print(f"{folder}: half-written, damaged, or from other settings, code or data; deleted", flush=True)
            shutil.rmtree(folder)
    return complete[-1] if complete else None


def checkpoint_step(folder: Path) -> int:
    """The optimiser step of a folder named `checkpoint-<step>`."""
    return int(folder.name.rsplit("-", 1)[1])


@contextmanager
def deleted_on_error(folder: Path, step: int) -> Iterator[None]:
    """Turn a failure to write (a full disk, say) into a UserError, and delete the half-written folder."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{folder}: the checkpoint at step {step} could not be written ({reason}); "
            "earlier checkpoints are untouched: free disk space and run again to resume from the last one"
        ) from None


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, each once, by name; of sharded ones a full copy.

    All processes have to call it.
    """
    return {name: full_tensor(value.detach()) for name, value in model.named_parameters() if value.requires_grad}


def full_tensor(value: Tensor) -> Tensor:
    """A tensor, gathered onto the CPU if it is sharded over processes."""
    return value.full_tensor().to("cpu", copy=True) if isinstance(value, DTensor) else value


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Set the parameters that training changes. Raises KeyError if one is missing."""
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.copy_(_shard_like(value, weights[name]))


def _shard_like(parameter: Tensor, value: Tensor) -> Tensor:
    """`value`, sharded as the parameter is."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def replace_parameter(model: nn.Module, names: Sequence[str], value: Tensor) -> None:
    """Put a tensor in the place of a parameter, under all its names; after that the model can only be saved."""
    parameter = nn.Parameter(value, requires_grad=False)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)


LOCK_TIMEOUT = 30.0
"""Seconds: a process that was killed may take some to end."""
_LOCKS: list[int] = []  # descriptors, open until this process ends


def lock_folder(folder: Path, timeout: float = LOCK_TIMEOUT) -> None:
    """Lock a folder for this process until it ends; the same process may lock it again.

    Raises UserError, naming the other process, if that keeps the lock for `timeout` seconds. On a file system without
    locks nothing is locked.
    """
    path, deadline = folder / "lock", time.monotonic() + timeout
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(descriptor, 200).decode(errors="replace") or "another process"
        except OSError:
            return
        else:
            if os.fstat(descriptor).st_nlink:  # else the other process has deleted it, with its folder
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                _LOCKS.append(descriptor)
                return
        os.close(descriptor)
        if time.monotonic() >= deadline:
            raise UserError(f"{folder}: {other} is training there; wait until it has ended, or stop it, and run again")
        time.sleep(0.5)
