"""Runs programs one after another, each in a fork; `sandbox.py` starts it. It imports only the standard library.

A job is a line of JSON on a socket, {"program"}, and so is its answer, {"status", "detail", "seconds"}. A program that
changes the worker, so that the next one would run under other conditions, ends the worker, which then does not answer.
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

PRELOADED = """
    array bisect cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq itertools
    math operator random re statistics string sys time typing
""".split()
"""Modules that programs often import, loaded before the fork."""

PACKAGES = "/packages"
"""Folder of the sandbox with the packages that programs may import."""

SET_PDEATHSIG, SET_DUMPABLE, SET_CHILD_SUBREAPER = 1, 4, 36  # of prctl
FILE_BYTES, FILES, PROCESSES = 16 << 20, 64, 8
LIMITS = range(16)  # all resource limits of Linux

LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option, value):
    if LIBC.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def confine(seconds, memory):
    """Set the limits of the program, in the fork. It never runs as root, whose processes the kernel does not count."""
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


def run_program(program, report, seconds, memory):
    """In the fork: report "+" and the nonce if the program came to its end, else "-" and the reason. Never returns.

    The nonce comes through the socket and is read last, so that no variable holds it while the program runs.
    """
    try:
        confine(seconds, memory)
        gc.enable()
        try:
            exec(compile(program, "<program>", "exec"), {})
            message = b"+"
        except BaseException as error:
            message = f"-{type(error).__name__}: {error}"[:200].encode(errors="replace")
        nonce = report.recv(64)
        report.send(message + nonce if message == b"+" else message)
    finally:
        os._exit(0)


def supervise(program, channel, seconds, memory, own_namespace):
    """(status, detail) of a program; no process that it started is alive afterwards."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        os.close(channel)
        ours.close()
        run_program(program, theirs, seconds, memory)
    theirs.close()
    nonce = secrets.token_bytes(16)
    ours.settimeout(seconds)
    try:
        ours.send(nonce)
        message = ours.recv(4096)
    except TimeoutError:
        message = None
    except OSError:  # the child is gone
        message = b""
    ours.close()
    kill_descendants(child, own_namespace)
    if message is None:
        return "timeout", f"not over after {seconds:g} s"
    if message == b"+" + nonce:
        return "passed", ""
    return "failed", message[1:].decode(errors="replace") or "ended before its end"


def kill_descendants(child, own_namespace):
    """Kill and reap the fork and all its descendants: orphans become children of the worker, a subreaper.

    own_namespace: the worker has a PID namespace of its own, and may kill every process that it sees.
    """
    while True:
        own = [(os.kill, -1)] if own_namespace else [(os.killpg, child), *((os.kill, pid) for pid in child_pids())]
        for kill, pid in own:
            try:
                kill(pid, signal.SIGKILL)
            except OSError:  # it is dead
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def child_pids():
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="utf-8") as file:
        return [int(pid) for pid in file.read().split()]


def clear_folder(folder):
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def process_attributes():
    """What another process of the same user can change of this one: limits, priority, scheduler, cores."""
    limits = [resource.getrlimit(limit) for limit in LIMITS]
    return limits, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getaffinity(0)


def has_shared_memory():
    """Whether the worker's own IPC namespace holds memory of System V, which outlives the process that made it."""
    for kind in ("shm", "msg", "sem"):
        with open(f"/proc/sysvipc/{kind}", encoding="utf-8") as file:
            if len(file.readlines()) > 1:
                return True
    return False


def main():
    """argv[1]: JSON with the file descriptor of the socket, the limits, the folder to work in, and `own_namespace`."""
    settings = json.loads(sys.argv[1])
    channel, folder, own_namespace = settings["channel"], settings["folder"], settings["own_namespace"]
    os.closerange(3, channel)
    os.closerange(channel + 1, 1024)
    sys.path.remove("")
    sys.path += [PACKAGES] * bool(settings["packages"])
    for name in [*PRELOADED, *settings["packages"]]:
        importlib.import_module(name)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
        file.write("1000")  # where memory is short, programs are killed first
    prctl(SET_CHILD_SUBREAPER, 1)
    prctl(SET_DUMPABLE, 0)  # programs run as the worker's user, and could read its memory
    connection = socket.socket(fileno=channel)
    connection.sendall(b"ready\n")
    os.dup2(0, 2)  # output of programs is discarded; errors until here went to the parent
    gc.collect()
    gc.freeze()
    gc.disable()
    before = process_attributes()
    for line in connection.makefile("rb"):
        start = time.monotonic()
        status, detail = supervise(
            json.loads(line)["program"], channel, settings["seconds"], settings["memory"], own_namespace
        )
        clear_folder(folder)
        if os.listdir(folder) or process_attributes() != before or (own_namespace and has_shared_memory()):
            sys.exit("a program changed the worker")
        answer = {"status": status, "detail": detail, "seconds": round(time.monotonic() - start, 4)}
        connection.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
