"""The seccomp filter against the headers of Linux, run by an interpreter of BPF of a few lines."""

import errno
import re
from pathlib import Path

import pytest

from sparsepo.evaluation.sandbox_filter import ALLOWED, CONDITIONAL, MACHINES, build_filter, numbers
from sparsepo.runtime.errors import UserError

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
KNOWN = {"pid": 77, "lowest": 0x7F00, "highest": 0x7F02}
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000


def decide(program, machine: str, number: int, *arguments: int) -> int:
    """What a filter returns for a system call (Linux, Documentation/networking/filter.rst)."""
    halves = [half for value in (*arguments, *[0] * 6) for half in (value & 0xFFFFFFFF, value >> 32)]
    data = [number, MACHINES[machine][0], 0, 0, *halves]
    place, accumulator = 0, 0
    while True:
        code, if_true, if_false, constant = program[place]
        constant = KNOWN.get(constant, constant)
        place += 1
        if code == 0x20:
            accumulator = data[constant // 4]
        elif code == 0x06:
            return constant
        elif code == 0x05:
            place += constant
        else:
            holds = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x35: accumulator >= constant}
            place += if_true if (holds | {0x45: bool(accumulator & constant)})[code] else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_exactly_the_named_calls_are_permitted(machine):
    program, named = build_filter(machine), numbers(ALLOWED, machine)
    conditional = numbers(list(CONDITIONAL), machine)
    permitted = {n for n in range(1000) if n not in conditional.values() and decide(program, machine, n) == ALLOW}
    assert permitted == set(named.values()) and len(named) > 90
    assert {decide(program, machine, n) for n in range(1000)} - {ALLOW, DENY} == {0x00050000 | errno.ENOSYS}
    assert decide(program, machine, 0x40000000) == DENY
    others = next(other for other in MACHINES if other != machine)
    assert decide(program, others, 0) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_headers_of_linux(machine):
    if not HEADERS[machine].is_file():
        pytest.skip("the headers of Linux are not installed")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    expected = {"newfstatat" if name == "fstatat" else name: int(number) for name, number in defined}
    ours = numbers([*ALLOWED, *CONDITIONAL], machine)
    assert ours == {name: expected[name] for name in ours}


def test_calls_that_depend_on_an_argument():
    program = build_filter("x86_64")

    def permitted(number: int, *arguments: int) -> bool:
        return decide(program, "x86_64", number, *arguments) == ALLOW

    assert permitted(56, 0x3D0F00) and not permitted(56, 17)  # clone: a thread, not a fork
    assert permitted(62, 77) and not permitted(62, 1) and not permitted(62, 0xFFFFFFFF)  # kill
    assert permitted(234, 77, 78) and not permitted(234, 1, 1)  # tgkill
    assert permitted(302, 0) and not permitted(302, 5)  # prlimit
    assert permitted(53, 1) and not permitted(53, 2)  # socketpair
    assert permitted(72, 0, 3) and not permitted(72, 0, 6) and not permitted(72, 0, 1031)  # fcntl
    assert permitted(16, 0, 0x5401) and not permitted(16, 0, 0x5412)  # ioctl, not TIOCSTI
    assert permitted(9, 0) and permitted(9, 0x7F01 << 32) and not permitted(9, 0x7F03 << 32)  # mmap
    assert not permitted(9, 0x7EFF << 32) and not permitted(9, 1 << 40)
    assert (
        permitted(2, 0, 0o101) and not permitted(2, 0, 0o20200002) and not permitted(257, 0, 0, 0o20200002)
    )  # O_TMPFILE
    assert permitted(25, 0, 0, 0, 1) and not permitted(25, 0, 0, 0, 3)  # mremap


def test_another_machine_is_refused_by_name():
    with pytest.raises(UserError, match="x86_64 and aarch64 alone; this machine is riscv64"):
        build_filter("riscv64")
