"""Runs programs one after another, each in a fork of its own; `sandbox.py` starts it. Only the standard library.

For each program comes a byte on a socket, with a socket to the parent, which the fork takes. The worker reads nothing
from that, so no program can find there what belongs to another. Its answer is two bytes: how the program ended, and
whether all is as it was before; if not, the parent replaces this worker.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import time

PRELOADED = """
    array bisect cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq itertools
    math operator random re statistics string sys time typing
""".split()
"""Modules that programs often import, loaded before the fork."""

PACKAGES = "/packages"
"""Folder of the sandbox with the packages that programs may import."""

LENGTH_BYTES, NONCE_BYTES, DETAIL_LENGTH = 8, 16, 200
FILE_BYTES, FILES, THREADS = 16 << 20, 64, 16
BUFFER_BYTES = 16 << 20  # what 64 pipes and sockets can hold
POLL_SECONDS = 0.02

SET_PDEATHSIG, SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVS, FILTER_MODE = 1, 4, 22, 38, 2  # of prctl
LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option, value, pointer=None):
    if LIBC.prctl(option, ctypes.c_ulong(value), pointer, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


class FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def pack_filter(instructions, memory):
    """The instructions as bytes, and where the number of the process is to be written.

    A program may map addresses near those where the kernel puts what a program with this memory asks for.
    """
    recent = ctypes.addressof(ctypes.create_string_buffer(1 << 20)) >> 32
    known = {"pid": 0, "lowest": max(0, recent - 1 - (memory >> 32)), "highest": recent + 1}
    packed = b"".join(struct.pack("HBBI", *jumps, known.get(value, value)) for *jumps, value in instructions)
    return bytearray(packed), [8 * place + 4 for place, (*_, value) in enumerate(instructions) if value == "pid"]


def confine(seconds, memory, instructions, pid_offsets):
    """Set the limits and the filter, in the fork, which never runs as root, whose threads the kernel does not count."""
    os.setsid()
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_NPROC: THREADS,
        resource.RLIMIT_SIGPENDING: FILES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    for offset in pid_offsets:
        struct.pack_into("I", instructions, offset, os.getpid())
    prctl(SET_NO_NEW_PRIVS, 1)
    prctl(SET_SECCOMP, FILTER_MODE, ctypes.byref(FilterProgram(len(instructions) // 8, bytes(instructions))))


def read(report, size):
    data = b""
    while len(data) < size:
        more = os.read(report, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def run_program(report, *limits):
    """In the fork: report "+" and the nonce if the program came to its end, else "-" and the reason. Never returns.

    The nonce comes through the socket and is read last, so that no variable holds it while the program runs.
    """
    try:
        null = os.open(os.devnull, os.O_RDWR)  # not the worker's, whose flags the next program would see
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.close(null)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        confine(*limits)
        program = json.loads(read(report, int.from_bytes(read(report, LENGTH_BYTES), "big")))
        gc.enable()
        try:
            exec(compile(program, "<program>", "exec"), {})
            message = b"+"
        except BaseException as error:
            message = f"-{type(error).__name__}: {error}"[:DETAIL_LENGTH].encode(errors="replace")
        nonce = read(report, NONCE_BYTES)
        os.write(report, message + nonce if message == b"+" else message)
    finally:
        os._exit(0)


def wait(child, seconds, files):
    """b"e" if the program ended by itself, b"t" if its time ran out, b"f" if it made more than `files` files."""
    end = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        outcome = b"t" if time.monotonic() > end else b"f" if files and count_files() > files else b""
        if outcome:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return outcome
        signal.sigtimedwait([signal.SIGCHLD], min(POLL_SECONDS, max(0.0, end - time.monotonic()) + 0.001))
    return b"e"


def count_files():
    usage = os.statvfs(".")
    return usage.f_files - usage.f_ffree


def folder_times():
    """When the folder was last changed, or its entries or their names, which cannot be set back, and last listed."""
    status = os.stat(".")
    return status.st_ctime_ns, status.st_atime_ns


def serve(connection, limits, files, before):
    """Run one program and answer; False if the parent has closed the socket. The next one sees none of its locals."""
    _, reports, *_ = socket.recv_fds(connection, 1, 1)
    if not reports:
        return False
    child = os.fork()
    if child == 0:
        os.close(connection.fileno())
        run_program(*reports, *limits)
    os.close(*reports)
    connection.sendall(wait(child, limits[0], files) + (b"+" if folder_times() == before else b"-"))
    return True


def main():
    """argv[1]: JSON with the file descriptor of the socket, the folder to work in, limits and the filter."""
    settings = json.loads(sys.argv[1])
    channel = settings["channel"]
    os.closerange(3, channel)
    os.closerange(channel + 1, 1024)
    sys.path.remove("")
    sys.path += [PACKAGES] * bool(settings["packages"])
    for name in [*PRELOADED, *settings["packages"]]:
        importlib.import_module(name)
    os.chdir(settings["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # see `wait`
    prctl(SET_DUMPABLE, 0)  # without a sandbox programs could read the memory of a worker of their user
    memory = settings["memory"] - BUFFER_BYTES - settings["folder_bytes"]
    limits = settings["seconds"], memory, *pack_filter(settings["filter"], memory)
    connection = socket.socket(fileno=channel)
    connection.sendall(b"ready\n")
    os.dup2(0, 2)  # errors until here went to the parent
    gc.collect()
    gc.freeze()
    gc.disable()
    before = folder_times()
    while serve(connection, limits, settings["files"], before):
        pass


if __name__ == "__main__":
    main()
