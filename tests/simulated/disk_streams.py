"""Files and listings of a simulated disk as `open` and `os.scandir` give them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulated.disk import Disks, Node


class Entry:
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


class Entries:
    def __init__(self, path: str, entries: dict[str, Node]):
        self._entries = iter([Entry(path, name, node) for name, node in entries.items()])

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    close = __exit__


class Stream:
    """An open file, without a buffer: what is written is on the disk."""

    __slots__ = ("_at_end", "_content", "_disks", "_number", "_place")

    def __init__(self, disks: Disks, number: int, content: bytearray, at_end: bool):
        self._disks, self._number, self._at_end = disks, number, at_end
        self._content = content
        self._place = len(content) if at_end else 0

    def fileno(self) -> int:
        return self._number

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = max(0, len(self._content) - self._place)
        data = self._disks.pread(self._number, size, self._place)
        self._place += len(data)
        return data

    def readline(self) -> bytes:
        content = self._content
        end = content.find(b"\n", self._place) + 1 or len(content)
        return self.read(end - self._place)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def write(self, data: Any) -> int:
        place = len(self._content) if self._at_end else self._place
        count = self._disks.pwrite(self._number, data, place)
        self._place = place + count
        return count

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            place += self._place
        elif whence == os.SEEK_END:
            place += len(self._content)
        self._place = place
        return place

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._disks.close(self._number)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._disks.close(self._number)


class TextStream:
    def __init__(self, stream: Stream, errors: str):
        self._stream, self._errors = stream, errors

    def read(self, size: int = -1) -> str:
        return self._stream.read(size).decode("utf-8", self._errors)

    def __iter__(self) -> Iterator[str]:
        return (line.decode("utf-8", self._errors) for line in self._stream)

    def write(self, text: str) -> int:
        return self._stream.write(text.encode("utf-8", self._errors))

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@functools.cache
def opening(mode: str) -> tuple[int, bool, bool]:
    """Returns how `open` of the system opens a file in a mode of Python's, whether its end is the
    place to write, and whether it holds bytes.
    """
    flags = {"r": os.O_RDONLY, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT}[mode[0]]
    access = os.O_RDWR if "+" in mode else os.O_RDONLY if mode[0] == "r" else os.O_WRONLY
    return flags | access, mode[0] == "a", "b" in mode
