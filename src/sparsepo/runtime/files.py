"""Files of results: on the disk before they have their name, and compared with their checksum when they are read.

`.checksums/<name>.sha256` beside a file holds its `file_hash`.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsepo.runtime.errors import UserError, add_path_to_disk_error

CHECKSUMS = ".checksums"
LARGE = 1 << 20
"""Bytes from which on a process computes the hash of an unchanged file once."""
_HASHES: dict[tuple[int, ...], str] = {}


def bytes_hash(content: bytes) -> str:
    """The SHA-256, 16 hex digits."""
    return hashlib.sha256(content).hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """`bytes_hash` of the content of a file."""
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if key not in _HASHES or stat.st_size < LARGE:
            _HASHES[key] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return _HASHES[key]


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, so that they survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def checksum_path(path: Path) -> Path:
    """Where the checksum of a file stands."""
    return path.parent / CHECKSUMS / f"{path.name}.sha256"


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; its content gets the name `path` when it is on the disk, and its checksum after.

    If writing fails, the former file stays. Its temporary file is overwritten where a process was killed that wrote it.
    """
    path = Path(path)
    checksum = checksum_path(path)
    checksum.parent.mkdir(parents=True, exist_ok=True)
    temporary, temporary_checksum = (checksum.with_name(f"{path.name}.{kind}") for kind in ("tmp", "tmp.sha256"))
    try:
        with add_path_to_disk_error(path):
            yield temporary
            sync(temporary)
            temporary_checksum.write_text(file_hash(temporary), encoding="ascii")
            sync(temporary_checksum)
        checksum.unlink(missing_ok=True)  # a file without a checksum is on the disk too: this happens after a sync
        os.replace(temporary, path)
        sync(path.parent)
        os.replace(temporary_checksum, checksum)
        sync(checksum.parent)
    finally:
        temporary.unlink(missing_ok=True)
        temporary_checksum.unlink(missing_ok=True)


def check_file(path: Path, content: bytes | None = None) -> None:
    """Raises UserError where a file, of which `content` is given if it was read, does not have its checksum.

    One without a checksum is taken as it is.
    """
    checksum = checksum_path(path)
    try:
        recorded = checksum.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    own_hash = file_hash(path) if content is None else bytes_hash(content)
    if own_hash.encode() != recorded:
        record = path.with_name("run.json")  # its job writes all files of a model folder
        output = record if record.exists() else path
        raise UserError(
            f"{path} is not what was written there (loss of power, a cut copy, a change by hand?): put back a copy, or "
            f"delete {output} and run again, which makes it again; to keep it as it is, delete {checksum}"
        )


def check_folder(folder: Path) -> None:
    """As `check_file`, of each file of a folder that has a checksum."""
    for checksum in sorted((folder / CHECKSUMS).glob("*.sha256")):
        path = folder / checksum.stem
        if path.is_file():
            check_file(path)
