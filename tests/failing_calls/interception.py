"""Runs a function in a separate process, observes its system calls, makes some of them fail, and
kills it before one of them.

Linux stops a filtered call and asks another process what to do with it (seccomp user notification).
strace can also make calls fail, but it counts them separately for each thread, and restricts them
to files whose whole path is known beforehand, which is not the case for temporary files.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import os
import pathlib
import platform
import select
import signal
import struct
import time
from collections.abc import Callable, Collection, Iterator, Sequence

# kind of call -> name -> (number on x86_64, where its paths or descriptor are)
_AT, _NAME, _FILE, _NONE = "folder and name", "name", "descriptor", "nothing"
_CALLS: dict[str, dict[str, tuple[int, str]]] = {
    "open": {"openat": (257, _AT), "open": (2, _NAME), "creat": (85, _NAME)},
    "read": {
        "read": (0, _FILE),
        "pread64": (17, _FILE),
        "readv": (19, _FILE),
        "preadv": (295, _FILE),
    },
    "write": {
        "write": (1, _FILE),
        "pwrite64": (18, _FILE),
        "writev": (20, _FILE),
        "pwritev": (296, _FILE),
        "sendfile": (40, _FILE),
        "copy_file_range": (326, _FILE),
    },
    "sync": {"fsync": (74, _FILE), "fdatasync": (75, _FILE)},
    "rename": {
        "rename": (82, _NAME),
        "renameat": (264, _AT),
        "renameat2": (316, _AT),
        "link": (86, _NAME),
        "linkat": (265, _AT),
    },
    "resize": {"ftruncate": (77, _FILE), "truncate": (76, _NAME), "fallocate": (285, _FILE)},
    "make": {"mkdir": (83, _NAME), "mkdirat": (258, _AT)},
    "remove": {"unlink": (87, _NAME), "unlinkat": (263, _AT), "rmdir": (84, _NAME)},
    "list": {"getdents64": (217, _FILE)},
    "socket": {
        "socket": (41, _NONE),
        "bind": (49, _NONE),
        "listen": (50, _NONE),
        "connect": (42, _NONE),
        "accept": (43, _NONE),
        "accept4": (288, _NONE),
    },
    "transfer": {"sendmsg": (46, _NONE), "recvmsg": (47, _NONE)},
}
_BY_NUMBER = {
    number: (kind, name, where)
    for kind, calls in _CALLS.items()
    for name, (number, where) in calls.items()
}
FILES = ("open", "read", "write", "sync", "rename", "resize", "make", "remove", "list")
SOCKETS = ("socket", "transfer")
# kind of call -> errors with which it can fail
ERRORS = {
    "open": ("EIO", "ENOSPC", "EMFILE", "EACCES"),
    "read": ("EIO",),
    "write": ("EIO", "ENOSPC"),
    "sync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC", "EACCES"),
    "resize": ("EIO", "ENOSPC"),
    "make": ("EIO", "ENOSPC", "EACCES"),
    "remove": ("EIO", "EACCES"),
    "list": ("EIO",),
    "socket": ("EMFILE", "EACCES", "EIO"),
    "transfer": ("EIO", "ENOSPC"),
}
KILL = "SIGKILL"  # in place of an error: the process is killed before the call
# kinds of calls that change the disk; of "open", those that create a file
CHANGES = ("open", "write", "sync", "rename", "resize", "make", "remove")
# From <linux/seccomp.h>, <linux/audit.h>, <linux/prctl.h> and the table of system calls.
_AUDIT_X86_64, _NO_NEW_PRIVILEGES = 0xC000003E, 38
_SECCOMP, _PIDFD_OPEN, _PIDFD_GETFD = 317, 434, 438
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_DEATH = -1  # a decision besides the numbers of errors
_CREATING = ("ENOSPC", KILL)  # an open that creates no file needs no space and changes nothing
_CREATE, _HERE = 0o100, -100  # O_CREAT, AT_FDCWD
_LINK = "anon_inode:seccomp notify"
_libc = ctypes.CDLL(None, use_errno=True)


class CannotIntercept(Exception):
    """This system does not let a process decide on the calls of another."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A system call on the program's own files, or on a socket."""

    kind: str
    name: str
    path: str  # "" for a socket
    creates: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.path}".strip()


@dataclasses.dataclass(frozen=True)
class Fault:
    """The calls number `first`, `first` + 1, ... of a kind fail, `count` of them.

    With the error `KILL`, the process does not survive the first.
    """

    kind: str
    first: int
    error: str
    count: int = 1

    def __str__(self) -> str:
        more = f" and {self.count - 1} after it" if self.count > 1 else ""
        return f"{self.kind} number {self.first}{more}: {self.error}"


@dataclasses.dataclass(frozen=True)
class Ended:
    """How an intercepted process ended.

    Attributes:
      code: its exit code, negative for a signal.
      hung: whether it was killed because it took too long.
      calls: the intercepted calls in order.
      failed: those that were made to fail.
      output: what it wrote on standard output and standard error.
      killed: whether a fault killed it.
    """

    code: int
    hung: bool
    calls: Sequence[Call]
    failed: Sequence[Call]
    output: str
    killed: bool = False


def require() -> None:
    """Raises CannotIntercept where the system lacks what is needed."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise CannotIntercept("system calls are intercepted on Linux on x86_64 only")
    sizes = (ctypes.c_uint16 * 3)()
    if _libc.syscall(_SECCOMP, 3, 0, sizes) or tuple(sizes) != (80, 24, 64):
        raise CannotIntercept("this system has no user notification of seccomp")


class Process:
    """A forked process that runs `work` and ends with the code that it returns.

    Args:
      kinds: kinds of calls to intercept.
      roots: folders; only calls on what is below them count. Sockets always do.
      fault: the calls that fail, or None.
      output: the file to which its standard output and error are appended.
    """

    def __init__(
        self,
        work: Callable[[], int],
        output: pathlib.Path,
        *,
        kinds: Collection[str] = (),
        roots: Sequence[pathlib.Path] = (),
        fault: Fault | None = None,
    ):
        self._roots = tuple(os.fspath(root) for root in roots)
        self._output, self._fault = output, fault
        self._at = output.stat().st_size if output.exists() else 0
        self._counted = 0
        self._calls: list[Call] = []
        self._failed: list[Call] = []
        self._code: int | None = None
        numbers = [number for number, (kind, *_) in _BY_NUMBER.items() if kind in kinds]
        self.pid = os.fork()
        if self.pid == 0:
            _be(work, output, numbers)
        self._listener: int | None = None
        if numbers:
            _, status = os.waitpid(self.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                raise CannotIntercept(output.read_text(errors="replace")[-500:])
            self._listener = _listener_of(self.pid)
            os.kill(self.pid, signal.SIGCONT)

    def serve(self, seconds: float = 0.0) -> bool:
        """Answers calls for this long; returns whether the process has ended."""
        deadline = time.monotonic() + seconds
        while not self._has_ended():
            left = deadline - time.monotonic()
            if self._listener is None:
                if left <= 0:
                    return False
                select.select([self._pidfd()], [], [], left)
                continue
            poll = select.poll()
            poll.register(self._listener, select.POLLIN)
            events = poll.poll(max(left, 0) * 1000)
            if not events and left <= 0:
                return False
            for _, event in events:
                if event & select.POLLIN:
                    self._answer()
                elif event & (select.POLLHUP | select.POLLERR):
                    os.close(self._listener)
                    self._listener = None
        return True

    def ended(self, seconds: float) -> Ended:
        """Waits for the end, at most this long."""
        hung = not self.serve(seconds)
        self.kill()
        with open(self._output, errors="replace") as stream:
            stream.seek(self._at)
            output = stream.read()
        assert self._code is not None
        killed = bool(self._failed) and self._fault is not None and self._fault.error == KILL
        return Ended(self._code, hung, self._calls, self._failed, output, killed)

    def kill(self) -> None:
        if not self._has_ended():
            os.kill(self.pid, signal.SIGKILL)
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self._listener is not None:
            os.close(self._listener)
            self._listener = None

    def _pidfd(self) -> int:
        if not hasattr(self, "_own"):
            self._own = os.pidfd_open(self.pid)
        return self._own

    def _has_ended(self) -> bool:
        if self._code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self._code = os.waitstatus_to_exitcode(status)
                if hasattr(self, "_own"):
                    os.close(self._own)
        return self._code is not None

    def _answer(self) -> None:
        asked = bytearray(80)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, asked)
        except OSError:  # it was killed meanwhile
            return
        number, task, _, which, _, _, *arguments = struct.unpack("<QIIiIQ6Q", asked)
        error = 0
        call = self._described(task, which, arguments)
        if call is not None:
            self._calls.append(call)
            error = self._decide(call)
            if error == _DEATH:
                os.kill(self.pid, signal.SIGKILL)  # it still waits for the answer
                return
        answer = struct.pack("<QqiI", number, 0, -error, 0 if error else _CONTINUE)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._listener, _SEND, bytearray(answer))

    def _decide(self, call: Call) -> int:
        fault = self._fault
        if fault is None or call.kind != fault.kind:
            return 0
        if fault.error in _CREATING and call.kind == "open" and not call.creates:
            return 0
        self._counted += 1
        if not fault.first <= self._counted < fault.first + fault.count:
            return 0
        self._failed.append(call)
        return _DEATH if fault.error == KILL else getattr(errno, fault.error)

    def _described(self, task: int, number: int, arguments: Sequence[int]) -> Call | None:
        """Returns the call, or None if it is on none of the program's files."""
        kind, name, where = _BY_NUMBER[number]
        if where == _NONE:
            return Call(kind, name, "")
        creates = False
        try:
            if where == _FILE:
                path = os.readlink(f"/proc/{task}/fd/{_signed(arguments[0])}")
            elif where == _NAME:
                path = os.path.join(os.readlink(f"/proc/{task}/cwd"), _text(task, arguments[0]))
                creates = name == "creat" or (name == "open" and bool(arguments[1] & _CREATE))
            else:
                at = _signed(arguments[0])
                folder = os.readlink(f"/proc/{task}/{'cwd' if at == _HERE else f'fd/{at}'}")
                path = os.path.join(folder, _text(task, arguments[1]))
                creates = name == "openat" and bool(arguments[2] & _CREATE)
        except OSError:
            return None
        if not any(path == root or path.startswith(root + "/") for root in self._roots):
            return None
        return Call(kind, name, path, creates)


def run(
    work: Callable[[], int],
    output: pathlib.Path,
    *,
    seconds: float,
    kinds: Collection[str] = (),
    roots: Sequence[pathlib.Path] = (),
    fault: Fault | None = None,
) -> Ended:
    """Runs `work` in a separate process until it ends; arguments as for `Process`."""
    return Process(work, output, kinds=kinds, roots=roots, fault=fault).ended(seconds)


def faults(calls: Sequence[Call], *, count: int = 1) -> Iterator[Fault]:
    """Yields every fault of a program that makes these calls."""
    for kind, errors in ERRORS.items():
        made = [call for call in calls if call.kind == kind]
        for error in errors:
            creating = kind == "open" and error in _CREATING
            number = sum(call.creates for call in made) if creating else len(made)
            for first in range(1, number + 1):
                yield Fault(kind, first, error, count)


def kills(calls: Sequence[Call]) -> Iterator[Fault]:
    """Yields a kill before each call that changes the disk."""
    for kind in CHANGES:
        made = sum(call.kind == kind and (kind != "open" or call.creates) for call in calls)
        for first in range(1, made + 1):
            yield Fault(kind, first, KILL)


def _be(work: Callable[[], int], output: pathlib.Path, numbers: Sequence[int]) -> None:
    code = 70
    try:
        opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor in (1, 2):
            os.dup2(opened, descriptor)
        os.close(opened)
        if numbers:
            _install(numbers)
            os.kill(os.getpid(), signal.SIGSTOP)
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        import sys

        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _install(numbers: Sequence[int]) -> None:
    """Makes the kernel ask about these calls of this process and its children."""

    def line(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    program = [
        line(0x20, 0, 0, 4),  # the architecture
        line(0x15, 1, 0, _AUDIT_X86_64),
        line(0x06, 0, 0, _ALLOW),
        line(0x20, 0, 0, 0),  # the number of the call
    ]
    for number in numbers:
        program += [line(0x15, 0, 1, number), line(0x06, 0, 0, _ASK)]
    program.append(line(0x06, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    about = ctypes.create_string_buffer(
        struct.pack("<H6xQ", len(program), ctypes.addressof(code)), 16
    )
    if _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if _libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, about) < 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _listener_of(process: int) -> int:
    for name in os.listdir(f"/proc/{process}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{process}/fd/{name}") == _LINK:
                about = os.pidfd_open(process)
                found = _libc.syscall(_PIDFD_GETFD, about, int(name), 0)
                os.close(about)
                if found >= 0:
                    return found
    raise CannotIntercept("the listener of the process may not be taken over")


def _signed(value: int) -> int:
    return ctypes.c_int32(value & 0xFFFFFFFF).value


def _text(task: int, address: int) -> str:
    """Returns the string at an address of another process."""
    with open(f"/proc/{task}/mem", "rb", buffering=0) as memory:
        content = b""
        while b"\0" not in content:
            at = address + len(content)
            content += os.pread(memory.fileno(), 4096 - at % 4096, at)
        return os.fsdecode(content.partition(b"\0")[0])
