"""Disks in memory, one per machine, under `/simulated/<machine>/`.

A disk costs microseconds, fills up when a story says so, and keeps what a killed program has
written, byte for byte. `disk_functions` lets the product work on it.

What is not modelled: unsynced data are never lost (`tests/power_loss` does that), and permissions.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import stat
from collections.abc import Callable
from typing import Any

from tests.simulated.disk_streams import Entries, Stream, TextStream, opening

ROOT = "/simulated/"
FIRST_DESCRIPTOR = 1_000_000
_FOLDER, _FILE = stat.S_IFDIR | 0o700, stat.S_IFREG | 0o600
_CREATE, _EXCLUSIVELY, _TRUNCATE = os.O_CREAT, os.O_EXCL, os.O_TRUNC
_WRITING = os.O_WRONLY | os.O_RDWR


class Node:
    """A file or a folder."""

    __slots__ = (
        *("content", "entries", "links", "locked_by", "mode", "mtime_ns", "number"),
        *("_status", "_status_of_links", "_status_of_size", "_status_of_time"),
    )

    def __init__(self, number: int, *, folder: bool, now_ns: int):
        self.number, self.mode = number, _FOLDER if folder else _FILE
        self.content = bytearray()
        self.entries: dict[str, Node] | None = {} if folder else None
        self.links, self.mtime_ns = 1, now_ns
        self.locked_by: object = None
        self._status: os.stat_result
        self._status_of_size, self._status_of_time, self._status_of_links = -1, 0, 0

    def status(self) -> os.stat_result:
        size = len(self.content)
        if (
            size != self._status_of_size
            or self.mtime_ns != self._status_of_time
            or self.links != self._status_of_links
        ):
            seconds = self.mtime_ns / 1e9
            times = (int(seconds),) * 3 + (seconds,) * 3 + (self.mtime_ns,) * 3
            self._status = os.stat_result(
                (self.mode, self.number, 1, self.links, 0, 0, size, *times)
            )
            self._status_of_size = size
            self._status_of_time, self._status_of_links = self.mtime_ns, self.links
        return self._status


class Disks:
    """The disks of all machines.

    Args:
      before: called with (machine, kind of operation) before each operation that writes or opens;
        raises OSError for a disk that fails, or ends the program that asks. Returns what runs on
        the machine now, so that its locks and files end with it.
      now_ns: nanoseconds since the epoch, of the clock that stamps files.
    """

    def __init__(
        self,
        before: Callable[[str, str], object],
        now_ns: Callable[[], int],
    ):
        self._before, self._now_ns = before, now_ns
        self._numbers, self._names = 1, 0
        self.root = Node(0, folder=True, now_ns=0)
        # path of a folder to what is in it, and path to what is there: forgotten when it moves or goes
        self._folders: dict[str, dict[str, Node]] = {}
        self._found: dict[str, Node] = {}
        self._open: dict[int, tuple[str, Node, object]] = {}
        self._next = FIRST_DESCRIPTOR

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

    def descriptors(self, machine: str, program: object) -> int:
        """Returns how many files a program that runs on a machine has open."""
        return sum(owner is program and m == machine for m, _, owner in self._open.values())

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
            _, folder, name = _parts(path)
            if not name or path[-1] == "/":
                return self._walk(path, path)
            found = self._entries(folder, path).get(name)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._found[path] = found
        return found

    def there(self, path: str) -> Node | None:
        """Returns what is at a path, None if there is nothing."""
        found = self._found.get(path)
        if found is None:
            _, folder, name = _parts(path)
            entries = self._folders.get(folder)
            if entries is not None and name and path[-1] != "/":
                return entries.get(name)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found = self._find(path)
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
        _, folder, name = _parts(path)
        entries = self._folders.get(folder)
        return (self._entries(folder, path) if entries is None else entries), name

    # The system calls.

    def open(self, path: str, flags: int, mode: int = 0o777, **_: Any) -> int:
        machine, folder, name = _parts(path)
        node = self._found.get(path)
        if node is None:
            entries = self._folders.get(folder) if name else {}
            if entries is None:
                entries = self._entries(folder, path)
            node = entries.get(name) if name else self._find(path)
        if node is None:
            if not flags & _CREATE:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            program = self._before(machine, "create")
            node = entries[name] = self._node(folder=False)
        else:
            if flags & _CREATE and flags & _EXCLUSIVELY:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            if node.entries is not None and flags & _WRITING:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            program = self._before(machine, "open")
        if flags & _TRUNCATE:
            node.content.clear()
        self._next = number = self._next + 1
        self._open[number] = machine, node, program
        return number

    def close(self, number: int) -> None:
        entry = self._open.pop(number, None)
        if entry is not None and entry[1].locked_by == number:
            entry[1].locked_by = None

    def _held(self, number: int) -> tuple[str, Node, object]:
        """Returns the machine, the file and the program of a descriptor."""
        entry = self._open.get(number)
        if entry is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return entry

    def pread(self, number: int, size: int, offset: int) -> bytes:
        machine, node, _ = self._open.get(number) or self._held(number)
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
        machine, node, _ = self._open.get(number) or self._held(number)
        self._before(machine, "write")
        if type(data) is not bytes:
            data = bytes(data)
        content, size = node.content, len(data)
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + size] = data
        node.mtime_ns = self._now_ns()
        return size

    def write(self, number: int, data: Any) -> int:
        """Appends: the product calls it for nothing else."""
        machine, node, _ = self._open.get(number) or self._held(number)
        self._before(machine, "write")
        content = node.content
        size = len(content)
        content += data
        node.mtime_ns = self._now_ns()
        return len(content) - size

    def ftruncate(self, number: int, size: int) -> None:
        machine, node, _ = self._held(number)
        self._before(machine, "truncate")
        self._cut(node, size)

    def truncate(self, path: Any, size: int) -> None:
        if isinstance(path, int):
            return self.ftruncate(path, size)
        self._before(_parts(path)[0], "truncate")
        self._cut(self._find(path), size)
        return None

    def _cut(self, node: Node, size: int) -> None:
        del node.content[size:]
        node.content.extend(bytes(size - len(node.content)))
        node.mtime_ns = self._now_ns()

    def fsync(self, number: int) -> None:
        self._before((self._open.get(number) or self._held(number))[0], "sync")

    def fstat(self, number: int) -> os.stat_result:
        return (self._open.get(number) or self._held(number))[1].status()

    def stat(self, path: Any, **_: Any) -> os.stat_result:
        if isinstance(path, int):
            return self.fstat(path)
        return (self._found.get(path) or self._find(path)).status()

    def flock(self, number: int, how: int) -> None:
        node = self._held(number)[1]
        if how & fcntl.LOCK_UN:
            node.locked_by = None
        elif node.locked_by not in (None, number):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        else:
            node.locked_by = number

    def replace(self, source: str, target: str, **_: Any) -> None:
        self._before(_parts(target)[0], "rename")
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
        self._before(_parts(target)[0], "create")
        node, (into, name) = self._find(source), self._parent(target)
        if name in into:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        into[name] = node
        node.links += 1

    def unlink(self, path: str, *, missing_ok: bool = False, **_: Any) -> None:
        machine, folder, name = _parts(path)
        self._before(machine, "remove")
        entries = self._folders.get(folder)
        try:
            node = (self._entries(folder, path) if entries is None else entries).pop(name)
        except (KeyError, FileNotFoundError):
            if not missing_ok:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
            return
        node.links -= 1
        self._forget(path, folder=node.entries is not None)

    def mkdir(self, path: str, mode: int = 0o777, **_: Any) -> None:
        entries, name = self._parent(path)
        if name in entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._before(_parts(path)[0], "create")
        entries[name] = self._node(folder=True)

    def chmod(self, path: Any, mode: int, **_: Any) -> None:
        if not isinstance(path, int):
            self._find(path)

    def listdir(self, path: str = ROOT) -> list[str]:
        return list(self._listed(path))

    def scandir(self, path: str = ROOT) -> Entries:
        return Entries(path, self._listed(path))

    def _listed(self, path: str) -> dict[str, Node]:
        entries = self._find(path).entries
        if entries is None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return entries

    # What is made of them.

    def open_stream(
        self, path: str, mode: str, opener: Callable | None = None, errors: str | None = None
    ) -> Any:
        flags, at_end, binary = opening(mode)
        number = self.open(path, flags) if opener is None else opener(path, flags)
        node = self._open[number][1]
        if node.entries is not None:
            self.close(number)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        stream = Stream(self, number, node.content, at_end)
        return stream if binary else TextStream(stream, errors or "strict")

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


@functools.lru_cache(maxsize=20_000)
def _parts(path: str) -> tuple[str, str, str]:
    """Returns the machine of a path, its folder, and its name there: "" for the machine's root."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return path.split("/", 3)[2], folder, name if folder.count("/") > 1 else ""
