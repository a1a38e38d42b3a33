"""Disks in memory, one per machine, under `/simulated/<machine>/`.

While `installed`, the functions of `os`, `open` and their like that the product calls work on these
paths; every other path goes to the system. So a disk costs microseconds, fills up when a story says
so, and keeps what a killed program has written, byte for byte.

What is not modelled: unsynced data are never lost (`tests/power_loss` does that), and permissions.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import functools
import io
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from runkit import writeback

ROOT = "/simulated/"
_FIRST_DESCRIPTOR = 1_000_000
_FOLDER, _FILE = stat.S_IFDIR | 0o700, stat.S_IFREG | 0o600


class Node:
    """A file or a folder."""

    __slots__ = ("content", "entries", "links", "locked_by", "mode", "mtime_ns", "number", "told")

    def __init__(self, number: int, *, folder: bool, now_ns: int):
        self.number, self.mode = number, _FOLDER if folder else _FILE
        self.content = bytearray()
        self.entries: dict[str, Node] | None = {} if folder else None
        self.links, self.mtime_ns = 1, now_ns
        self.locked_by: object = None
        self.told: tuple[int, int, int, os.stat_result] | None = None

    def status(self) -> os.stat_result:
        size, told = len(self.content), self.told
        if told is not None and told[:3] == (size, self.mtime_ns, self.links):
            return told[3]
        seconds = self.mtime_ns / 1e9
        times = (int(seconds),) * 3 + (seconds,) * 3 + (self.mtime_ns,) * 3
        found = os.stat_result((self.mode, self.number, 1, self.links, 0, 0, size, *times))
        self.told = size, self.mtime_ns, self.links, found
        return found


class Disks:
    """The disks of all machines.

    Args:
      before: called with (machine, kind of operation) before each operation that writes or opens;
        raises OSError for a disk that fails, or ends the program that asks.
      now_ns: nanoseconds since the epoch, of the clock that stamps files.
      program: returns what runs on a machine now, so that its locks and files end with it.
    """

    def __init__(
        self,
        before: Callable[[str, str], None],
        now_ns: Callable[[], int],
        program: Callable[[str], object],
    ):
        self._before, self._now_ns, self._program = before, now_ns, program
        self._numbers, self._names = 1, 0
        self.root = Node(0, folder=True, now_ns=0)
        # path of a folder to what is in it, and path to what is there: forgotten when it moves or goes
        self._folders: dict[str, dict[str, Node]] = {}
        self._found: dict[str, Node] = {}
        self._open: dict[int, tuple[str, Node, object]] = {}
        self._next = _FIRST_DESCRIPTOR

    # What stories and invariants ask.

    def add(self, machine: str) -> None:
        assert self.root.entries is not None
        self.root.entries[machine] = self._node(folder=True)

    def put(self, path: str, content: bytes) -> None:
        folder, name = self._parent(path)
        node = self._node(folder=False)
        node.content[:] = content
        folder[name] = node
        self._found.pop(path, None)

    def files(self, machine: str) -> dict[str, Node]:
        """Returns path below the machine's root to each file."""
        found: dict[str, Node] = {}

        def walk(node: Node, prefix: str) -> None:
            for name, child in (node.entries or {}).items():
                if child.entries is None:
                    found[prefix + name] = child
                else:
                    walk(child, f"{prefix}{name}/")

        assert self.root.entries is not None
        walk(self.root.entries[machine], "")
        return found

    def descriptors(self, machine: str) -> int:
        """Returns how many files the program that runs on a machine has open."""
        now = self._program(machine)
        return sum(owner is now and m == machine for m, _, owner in self._open.values())

    def end_program(self, program: object) -> None:
        """Closes what a program that has ended had open, as the system does."""
        for number, (_, node, owner) in list(self._open.items()):
            if owner is program:
                del self._open[number]
                if node.locked_by == number:
                    node.locked_by = None

    # Paths.

    def _node(self, *, folder: bool) -> Node:
        self._numbers += 1
        return Node(self._numbers, folder=folder, now_ns=self._now_ns())

    def _find(self, path: str) -> Node:
        found = self._found.get(path)
        if found is None:
            folder, _, name = path.rpartition("/")
            if not name or path == ROOT:
                return self._walk(path, path)
            found = self._entries(folder, path).get(name)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._found[path] = found
        return found

    def _entries(self, folder: str, path: str) -> dict[str, Node]:
        """Returns what is in a folder; an error names `path`."""
        entries = self._folders.get(folder)
        if entries is None:
            entries = self._walk(folder + "/", path).entries
            if entries is None:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            self._folders[folder] = entries
        return entries

    def _forget(self, *paths: str, folder: bool = False) -> None:
        """Forgets what was found at paths; below them too if there is a folder among them."""
        if folder:
            self._folders.clear()
            self._found.clear()
        for path in paths:
            self._found.pop(path, None)

    def _walk(self, place: str, path: str) -> Node:
        node = self.root
        for part in place[len(ROOT) :].split("/"):
            if part:
                if node.entries is None:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                found = node.entries.get(part)
                if found is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                node = found
        return node

    def _parent(self, path: str) -> tuple[dict[str, Node], str]:
        folder, _, name = path.rstrip("/").rpartition("/")
        entries = self._folders.get(folder)
        return (self._entries(folder, path) if entries is None else entries), name

    # The system calls.

    def open(self, path: str, flags: int, mode: int = 0o777, **_: Any) -> int:
        machine = _machine(path)
        entries, name = self._parent(path) if path.count("/") > 2 else ({}, "")
        node = entries.get(name) if name else self._find(path)
        if node is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._before(machine, "create")
            node = entries[name] = self._node(folder=False)
        else:
            if flags & os.O_CREAT and flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            if node.entries is not None and flags & (os.O_WRONLY | os.O_RDWR):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._before(machine, "open")
        if flags & os.O_TRUNC:
            node.content.clear()
        self._next += 1
        self._open[self._next] = (machine, node, self._program(machine))
        return self._next

    def close(self, number: int) -> None:
        entry = self._open.pop(number, None)
        if entry is not None and entry[1].locked_by == number:
            entry[1].locked_by = None

    def _held(self, number: int) -> tuple[str, Node]:
        entry = self._open.get(number)
        if entry is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return entry[:2]

    def pread(self, number: int, size: int, offset: int) -> bytes:
        machine, node = self._held(number)
        self._before(machine, "read")
        return bytes(node.content[offset : offset + size])

    def preadv(self, number: int, buffers: list, offset: int) -> int:
        count = 0
        for buffer in buffers:
            data = self.pread(number, len(buffer), offset + count)
            buffer[: len(data)] = data
            count += len(data)
        return count

    def pwrite(self, number: int, data: Any, offset: int) -> int:
        machine, node = self._held(number)
        self._before(machine, "write")
        data = bytes(data)
        content = node.content
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        node.mtime_ns = self._now_ns()
        return len(data)

    def ftruncate(self, number: int, size: int) -> None:
        machine, node = self._held(number)
        self._before(machine, "truncate")
        self._cut(node, size)

    def truncate(self, path: Any, size: int) -> None:
        if isinstance(path, int):
            return self.ftruncate(path, size)
        self._before(_machine(path), "truncate")
        self._cut(self._find(path), size)
        return None

    def _cut(self, node: Node, size: int) -> None:
        del node.content[size:]
        node.content.extend(bytes(size - len(node.content)))
        node.mtime_ns = self._now_ns()

    def fsync(self, number: int) -> None:
        self._before(self._held(number)[0], "sync")

    def fstat(self, number: int) -> os.stat_result:
        return self._held(number)[1].status()

    def stat(self, path: Any, **_: Any) -> os.stat_result:
        if isinstance(path, int):
            return self.fstat(path)
        return (self._found.get(path) or self._find(path)).status()

    def flock(self, number: int, how: int) -> None:
        _, node = self._held(number)
        if how & fcntl.LOCK_UN:
            node.locked_by = None
        elif node.locked_by not in (None, number):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        else:
            node.locked_by = number

    def replace(self, source: str, target: str, **_: Any) -> None:
        self._before(_machine(target), "rename")
        entries, name = self._parent(source)
        if name not in entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        into, new = self._parent(target)
        node, before = entries[name], into.get(new)
        if before is node:
            return  # two names of one file: the system does nothing
        if before is not None:
            if before.entries:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), target)
            before.links -= 1
        moves = node.entries is not None or (before is not None and before.entries is not None)
        self._forget(source, target, folder=moves)
        into[new] = node
        del entries[name]

    def link(self, source: str, target: str, **_: Any) -> None:
        self._before(_machine(target), "create")
        node, (into, name) = self._find(source), self._parent(target)
        if name in into:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        into[name] = node
        node.links += 1

    def unlink(self, path: str, **_: Any) -> None:
        self._before(_machine(path), "remove")
        entries, name = self._parent(path)
        if name not in entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        node = entries.pop(name)
        node.links -= 1
        self._forget(path, folder=node.entries is not None)

    def mkdir(self, path: str, mode: int = 0o777, **_: Any) -> None:
        entries, name = self._parent(path)
        if name in entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._before(_machine(path), "create")
        entries[name] = self._node(folder=True)

    def chmod(self, path: Any, mode: int, **_: Any) -> None:
        if not isinstance(path, int):
            self._find(path)

    def listdir(self, path: str = ROOT) -> list[str]:
        return list(self._listed(path))

    def scandir(self, path: str = ROOT) -> _Entries:
        return _Entries(path, self._listed(path))

    def _listed(self, path: str) -> dict[str, Node]:
        entries = self._find(path).entries
        if entries is None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return entries

    # What is made of them.

    def open_stream(self, file: Any, mode: str = "r", *_: Any, **named: Any) -> Any:
        path, opener, flags = os.fspath(file), named.get("opener"), _flags(mode)
        number = opener(path, flags) if opener else self.open(path, flags)
        if self._open[number][1].entries is not None:
            self.close(number)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        stream = _Stream(self, number, at_end=mode[0] == "a")
        if "b" in mode:
            return stream
        return _TextStream(stream, named.get("errors") or "strict")

    def mkstemp(self, suffix: str = "", prefix: str = "tmp", dir: Any = None, **_: Any) -> Any:
        self._names += 1
        path = f"{os.fspath(dir)}/{prefix}{self._names}{suffix}"
        return self.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), path

    def copyfile(self, source: Any, target: Any, **_: Any) -> Any:
        with open(source, "rb") as reading, open(target, "wb") as writing:
            writing.write(reading.read())
        return target

    def rmtree(self, path: str, ignore_errors: bool = False, **_: Any) -> None:
        node = self._find(path)
        for name, child in list((node.entries or {}).items()):
            inside = f"{path}/{name}"
            if child.entries is None:
                self.unlink(inside)
            else:
                self.rmtree(inside)
        self.unlink(path)


class _Entry:
    def __init__(self, folder: str, name: str, node: Node):
        self.name, self.path, self._node = name, f"{folder.rstrip('/')}/{name}", node

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._node.entries is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._node.entries is None

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._node.status()


class _Entries:
    def __init__(self, path: str, entries: dict[str, Node]):
        self._entries = iter([_Entry(path, name, node) for name, node in entries.items()])

    def __iter__(self) -> Iterator[_Entry]:
        return self._entries

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    close = __exit__


class _Stream:
    """An open file, without a buffer: what is written is on the disk."""

    def __init__(self, disks: Disks, number: int, *, at_end: bool):
        self._disks, self._number, self._at_end = disks, number, at_end
        self._place = len(self._content()) if at_end else 0

    def _content(self) -> bytearray:
        return self._disks._held(self._number)[1].content

    def fileno(self) -> int:
        return self._number

    def read(self, size: int = -1) -> bytes:
        left = max(0, len(self._content()) - self._place)
        data = self._disks.pread(self._number, left if size < 0 else size, self._place)
        self._place += len(data)
        return data

    def readline(self) -> bytes:
        content = self._content()
        end = content.find(b"\n", self._place) + 1 or len(content)
        return self.read(end - self._place)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def write(self, data: Any) -> int:
        if self._at_end:
            self._place = len(self._content())
        self._place += self._disks.pwrite(self._number, data, self._place)
        return len(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: len(self._content())}
        self._place = start[whence] + place
        return self._place

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._disks.close(self._number)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _TextStream:
    def __init__(self, stream: _Stream, errors: str):
        self._stream, self._errors = stream, errors

    def read(self, size: int = -1) -> str:
        return self._stream.read(size).decode("utf-8", self._errors)

    def __iter__(self) -> Iterator[str]:
        return (line.decode("utf-8", self._errors) for line in self._stream)

    def write(self, text: str) -> int:
        return self._stream.write(text.encode("utf-8", self._errors))

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def __enter__(self) -> _TextStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _machine(path: str) -> str:
    return path.split("/", 3)[2]


@functools.cache
def _flags(mode: str) -> int:
    """Returns how `open` of the system opens a file in a mode of Python's."""
    flags = {"r": os.O_RDONLY, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT}[mode[0]]
    return flags | (os.O_RDWR if "+" in mode else os.O_RDONLY if mode[0] == "r" else os.O_WRONLY)


_BY_PATH = {
    os: (
        *("open", "stat", "lstat", "replace", "rename", "link", "unlink", "remove", "mkdir"),
        *("chmod", "listdir", "scandir", "truncate"),
    ),
    builtins: ("open",),
    io: ("open",),
    shutil: ("copyfile", "rmtree"),
}
_BY_NUMBER = {
    os: ("close", "pread", "preadv", "pwrite", "ftruncate", "fsync", "fstat"),
    fcntl: ("flock",),
    writeback: ("begin",),
}
_SAME = {"lstat": "stat", "rename": "replace", "remove": "unlink"}


_Path = type(pathlib.Path())


def _place(path: Any) -> str | int | None:
    """Returns a path or a descriptor as the disks take it, None if it is neither."""
    if isinstance(path, pathlib.PurePath):
        return str(path)
    return path if isinstance(path, (str, int)) else None


class Installation:
    """The functions that take the place of the system's; `disks` may be set for each story."""

    def __init__(self) -> None:
        self._bound: dict[str, Callable] = {}

    @property
    def disks(self) -> Disks:
        return self._disks

    @disks.setter
    def disks(self, disks: Disks) -> None:
        self._disks = disks
        named = [
            name for table in (_BY_PATH, _BY_NUMBER) for names in table.values() for name in names
        ]
        for name in (*named, "open_stream"):
            if name != "begin":
                self._bound[name] = getattr(disks, _SAME.get(name, name))

    def _of_path(self, module: Any, name: str) -> Callable:
        original, bound = getattr(module, name), self._bound
        mine = "open_stream" if module in (builtins, io) else name
        if name == "copyfile":  # the initial model may come from outside

            def copy(source: Any, target: Any, **named: Any) -> Any:
                inside = os.fspath(target).startswith(ROOT)
                return (bound[name] if inside else original)(source, target, **named)

            return copy

        def call(path: Any = ".", *given: Any, **named: Any) -> Any:
            kind = type(path)
            place = path if kind is str else str(path) if kind is _Path else _place(path)
            if place is None or not (
                place.startswith(ROOT) if type(place) is str else place >= _FIRST_DESCRIPTOR
            ):
                return original(path, *given, **named)
            if given and isinstance(given[0], pathlib.PurePath):  # of a rename or a link
                given = (str(given[0]), *given[1:])
            return bound[mine](place, *given, **named)

        return call

    def _of_number(self, module: Any, name: str) -> Callable:
        original, bound = getattr(module, name), self._bound

        def call(number: Any, *given: Any) -> Any:
            if type(number) is not int and isinstance(number, (_Stream, _TextStream)):
                number = number.fileno()
            if isinstance(number, int) and number >= _FIRST_DESCRIPTOR:
                return bound[name](number, *given) if name != "begin" else True
            return original(number, *given)

        return call

    def _mkstemp(self) -> Callable:
        original = tempfile.mkstemp

        def call(*given: Any, **named: Any) -> Any:
            inside = os.fspath(named.get("dir") or "").startswith(ROOT)
            return (self.disks.mkstemp if inside else original)(*given, **named)

        return call


@contextlib.contextmanager
def installed() -> Iterator[Installation]:
    """Lets the product work on simulated disks inside the block."""
    installation = Installation()
    replaced = [(tempfile, "mkstemp", installation._mkstemp())]
    for table, make in (
        (_BY_PATH, installation._of_path),
        (_BY_NUMBER, installation._of_number),
    ):
        replaced += [(m, name, make(m, name)) for m, names in table.items() for name in names]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    try:
        for module, name, function in replaced:
            setattr(module, name, function)
        yield installation
    finally:
        for module, name, function in before:
            setattr(module, name, function)
