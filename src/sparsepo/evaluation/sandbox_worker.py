"""Runs programs one after another, each in a fork; `sandbox.py` starts it. It needs no more than the standard library.

A job is a line of JSON on a socket: {"program"}. So is its answer: {"status", "detail", "seconds"}. What a program does
to the worker so that the next one would not run as it should ends the worker, before it has answered.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
import time

WARM = """
    array bisect cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq itertools
    math operator random re statistics string sys time typing
""".split()
"""What programs import: it is there already when they do."""

SET_PDEATHSIG, SET_DUMPABLE, SET_CHILD_SUBREAPER = 1, 4, 36  # of prctl
FILE_BYTES, FILES, PROCESSES = 16 << 20, 64, 8
LIMITS = range(16)  # every resource limit that Linux has


LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option, value):
    if LIBC.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def confine(seconds, memory):
    """Limits of the program itself, in the fork. The kernel counts no processes for root, which it never runs as."""
    os.setsid()
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def attempt(program, report, seconds, memory):
    """In the fork: say `+` and the nonce where the program came to its end, else `-` and why not. Never returns.

    The nonce comes through the socket and is read last, so that it is in no variable while the program runs.
    """
    try:
        confine(seconds, memory)
        gc.enable()
        try:
            exec(compile(program, "<program>", "exec"), {})
            word = b"+"
        except BaseException as error:
            word = f"-{type(error).__name__}: {error}"[:200].encode(errors="replace")
        nonce = report.recv(64)
        report.send(word + nonce if word == b"+" else word)
    finally:
        os._exit(0)


def outcome(program, channel, seconds, memory, alone):
    """(status, detail) of a program; nothing that it started is alive afterwards."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        os.close(channel)
        ours.close()
        attempt(program, theirs, seconds, memory)
    theirs.close()
    nonce = secrets.token_bytes(16)
    ours.settimeout(seconds)
    try:
        ours.send(nonce)
        word = ours.recv(4096)
    except TimeoutError:
        word = None
    except OSError:  # the child is gone
        word = b""
    ours.close()
    end(child, alone)
    if word is None:
        return "timeout", f"not over after {seconds:g} s"
    if word == b"+" + nonce:
        return "passed", ""
    return "failed", word[1:].decode(errors="replace") or "ended before its end"


def end(child, alone):
    """Kill and reap the fork and all that came of it: orphans become children of the worker, a subreaper.

    alone: the PID namespace is the worker's own, so it may kill all that it sees.
    """
    while True:
        for kill, who in [(os.kill, -1)] if alone else [(os.killpg, child), *((os.kill, pid) for pid in children())]:
            try:
                kill(who, signal.SIGKILL)
            except OSError:  # it is dead
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def wipe(folder):
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def standing():
    """What a process may change of another one of its user: limits, priority, the cores to run on."""
    limits = [resource.getrlimit(limit) for limit in LIMITS]
    return limits, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getaffinity(0)


def kept_memory():
    """Whether memory of System V, which outlives its maker, is held in the worker's own IPC namespace."""
    for kind in ("shm", "msg", "sem"):
        with open(f"/proc/sysvipc/{kind}") as file:
            if len(file.readlines()) > 1:
                return True
    return False


def main():
    """argv: a JSON object with the file number of the socket, the limits, the folder to work in, and `alone`."""
    settings = json.loads(sys.argv[1])
    channel, folder, alone = settings["channel"], settings["folder"], settings["alone"]
    os.closerange(3, channel)
    os.closerange(channel + 1, 1024)
    sys.path.remove("")
    for name in WARM:
        importlib.import_module(name)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory is short, programs go before anything else of the user
    prctl(SET_CHILD_SUBREAPER, 1)
    prctl(SET_DUMPABLE, 0)  # programs have the worker's user, and could look into its memory
    connection = socket.socket(fileno=channel)
    connection.sendall(b"ready\n")
    os.dup2(0, 2)  # what programs say goes nowhere; errors until here go to who started the worker
    gc.collect()
    gc.freeze()
    gc.disable()
    before = standing()
    for line in connection.makefile("rb"):
        start = time.monotonic()
        status, detail = outcome(json.loads(line)["program"], channel, settings["seconds"], settings["memory"], alone)
        wipe(folder)
        if os.listdir(folder) or standing() != before or (alone and kept_memory()):
            sys.exit("a program left something behind")
        answer = {"status": status, "detail": detail, "seconds": round(time.monotonic() - start, 4)}
        connection.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
