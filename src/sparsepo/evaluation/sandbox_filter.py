"""The system calls that a program of a model may make, as a seccomp filter; all others fail with EPERM.

A program is one process. It computes, starts threads, and works with files and pipes of its own. It cannot start,
trace, signal or reschedule a process, open a socket to anywhere, lock a file, or hold memory outside its address space.
"""

import errno
import platform

from sparsepo.runtime.errors import UserError

Instruction = tuple[int, int, int, int | str]
"""Of classic BPF: code, jump if true, jump if false, constant; a text is the name of a number of `PLACEHOLDERS`."""

PLACEHOLDERS = ("pid", "lowest", "highest")
"""What only the sandbox knows: the process of the program, and the upper 32 bits of addresses that it may map."""

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> AUDIT_ARCH, and which of its two numbers a system call has in the tables below."""

ALLOWED = """
    access:21 alarm:37 brk:12/214 chdir:80/49 chmod:90 clock_getres:229/114 clock_gettime:228/113
    clock_nanosleep:230/115 close:3/57 close_range:436/436 dup:32/23 dup2:33 dup3:292/24 epoll_create1:291/20
    epoll_ctl:233/21 epoll_pwait:281/22 epoll_wait:232 eventfd2:290/19 exit:60/93 exit_group:231/94 faccessat:269/48
    faccessat2:439/439 fadvise64:221/223 fallocate:285/47 fchdir:81/50 fchmod:91/52 fchmodat:268/53 fdatasync:75/83
    fstat:5/80 fstatfs:138/44 fsync:74/82 ftruncate:77/46 futex:202/98 getcwd:79/17 getdents:78 getdents64:217/61
    getegid:108/177 geteuid:107/175 getgid:104/176 getgroups:115/158 getitimer:36/102 getpeername:52/205 getpgid:121/155
    getpgrp:111 getpid:39/172 getppid:110/173 getpriority:140/141 getrandom:318/278 getresgid:120/150 getresuid:118/148
    getrlimit:97/163 getrusage:98/165 getsid:124/156 getsockname:51/204 getsockopt:55/209 gettid:186/178
    gettimeofday:96/169 getuid:102/174 link:86 linkat:265/37 lseek:8/62 lstat:6 madvise:28/233 mkdir:83 mkdirat:258/34
    mprotect:10/226 msync:26/227 munmap:11/215 nanosleep:35/101 newfstatat:262/79 pause:34 pipe:22 pipe2:293/59 poll:7
    ppoll:271/73 pread64:17/67 pselect6:270/72 pwrite64:18/68 read:0/63 readlink:89 readlinkat:267/78 readv:19/65
    recvfrom:45/207 rename:82 renameat:264/38 renameat2:316/276 restart_syscall:219/128 rmdir:84 rseq:334/293
    rt_sigaction:13/134 rt_sigpending:127/136 rt_sigprocmask:14/135 rt_sigreturn:15/139 rt_sigtimedwait:128/137
    sched_get_priority_max:146/125 sched_get_priority_min:147/126 sched_getaffinity:204/123 sched_getparam:143/121
    sched_getscheduler:145/120 sched_yield:24/124 select:23 sendfile:40/71 sendto:44/206 set_robust_list:273/99
    set_tid_address:218/96 setitimer:38/103 shutdown:48/210 sigaltstack:131/132 stat:4 statfs:137/43 statx:332/291
    symlink:88 symlinkat:266/36 sysinfo:99/179 time:201 times:100/153 truncate:76/45 umask:95/166 uname:63/160 unlink:87
    unlinkat:263/35 utimensat:280/88 wait4:61/260 waitid:247/95 write:1/64 writev:20/66
""".split()
"""Name and numbers of system calls: of x86_64, and of aarch64 where it has this one. Source: unistd.h of Linux 6.1."""

CLONE_THREAD, AF_UNIX = 0x10000, 1
FCNTL = (0, 1, 2, 3, 4, 1030, 1032)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ
IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX

LOAD, JUMP, EQUAL, GREATER, GREATER_OR_EQUAL, ANY_BIT, RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

DENIED = (RETURN, 0, 0, ERROR | errno.EPERM)
PERMITTED = (RETURN, 0, 0, ALLOW)


def _argument(index: int, upper: bool = False) -> Instruction:
    """Load half of an argument of the system call, on a little-endian machine."""
    return LOAD, 0, 0, ARGUMENTS + 8 * index + 4 * upper


def _one_of(index: int, values: tuple[int | str, ...], code: int = EQUAL) -> list[Instruction]:
    """Permit a call whose argument is one of these values, by its lower 32 bits."""
    tests: list[Instruction] = [(code, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_argument(index), *tests, DENIED, PERMITTED]


# A file without a name leaves no trace in its folder but the next number of a file, which the next program could read.
_TMPFILE = 0x400000
_NAMED = [(ANY_BIT, 0, 1, _TMPFILE), DENIED, PERMITTED]
# Addresses far apart would need page tables of their own, which no limit counts; 0 leaves the choice to the kernel.
_NEAR = [_argument(0, upper=True), (EQUAL, 2, 0, 0), (GREATER_OR_EQUAL, 0, 2, "lowest"), (GREATER, 1, 0, "highest")]

CONDITIONAL: dict[str, list[Instruction]] = {
    "clone:56/220": _one_of(0, (CLONE_THREAD,), ANY_BIT),
    "clone3:435/435": [(RETURN, 0, 0, ERROR | errno.ENOSYS)],  # the C library then takes clone
    "kill:62/129": _one_of(0, ("pid",)),
    "tgkill:234/131": _one_of(0, ("pid",)),
    "prlimit64:302/261": _one_of(0, (0,)),
    "socketpair:53/199": _one_of(0, (AF_UNIX,)),
    "fcntl:72/25": _one_of(1, FCNTL),
    "ioctl:16/29": _one_of(1, IOCTL),
    "open:2": [_argument(1), *_NAMED],
    "openat:257/56": [_argument(2), *_NAMED],
    "mmap:9/222": [*_NEAR, PERMITTED, DENIED],
    "mremap:25/216": _one_of(3, (0, 1)),  # not to an address of its choice
}
"""System calls that depend on an argument; the instructions end with a decision."""


def numbers(calls: list[str], machine: str) -> dict[str, int]:
    """Name -> number on a machine; calls that it does not have are left out."""
    place = MACHINES[machine][1]
    named = {name: of_machines.split("/") for name, of_machines in (call.split(":") for call in calls)}
    return {name: int(own[place]) for name, own in named.items() if len(own) > place}


def build_filter(machine: str | None = None) -> list[Instruction]:
    """The filter for a machine, by default this one. Raises UserError for one that it is not written for."""
    machine = machine or platform.machine()
    if machine not in MACHINES:
        raise UserError(f"programs of a model run on {' and '.join(MACHINES)} alone; this machine is {machine}")
    allowed = list(numbers(ALLOWED, machine).values())
    program: list[Instruction] = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, MACHINES[machine][0])]
    program += [(RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    program += [(EQUAL, len(allowed) - place, 0, number) for place, number in enumerate(allowed)]
    program += [(JUMP, 0, 0, 1), PERMITTED]
    for call, decision in CONDITIONAL.items():
        for number in numbers([call], machine).values():
            program += [(EQUAL, 0, len(decision), number), *decision]
    return [*program, DENIED]
