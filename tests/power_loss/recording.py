"""Records with strace what a program does to a folder.

strace sees every call, whether it comes from Python, SQLite, the writer of safetensors or
TensorFlow. A FUSE file system would also see writes to mapped pages, but the only such writes here
are those of SQLite's index of its write-ahead log, which SQLite rebuilds after a power cut.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from tests.power_loss.disk import ROOT, Operation

_CALLS = (
    "open,openat,creat,close,dup,dup2,dup3,fcntl,read,write,pwrite64,writev,pwritev,truncate,"
    "ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,"
    "symlink,symlinkat,fsync,fdatasync,lseek,copy_file_range,sendfile,mmap,clone,clone3,fork,vfork"
)
_STRACE = (
    "strace",
    "-f",
    "-y",
    "-xx",
    "-s",
    "100000000",
    "-e",
    f"trace={_CALLS}",
    "-e",
    "raw=read",
)
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+)(<[^>]*>)?.*", re.S)
_UNFINISHED = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>$", re.S)
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$", re.S)
_TOKEN = re.compile(
    r'"((?:\\x[0-9a-f]{2})*)"|(-?\w+)<((?:\\x[0-9a-f]{2}|[^>])*)>|([^,"<\s][^,"<]*|<[^>]*>)'
)
MARKS = "POWER_LOSS_MARKS"  # environment variable: file to which a program writes its marks


class CannotRecord(Exception):
    """strace is not installed here, or may not trace."""


def record(
    command: Sequence[str], root: pathlib.Path, environment: Mapping[str, str] | None = None
) -> list[Operation]:
    """Runs a program to its end and returns what it did below `root`, which is empty at the start.

    Raises:
      CannotRecord: if strace cannot be used.
      RuntimeError: if the program fails, or changes a file in a way that the model does not cover.
    """
    if shutil.which("strace") is None:
        raise CannotRecord("strace is not installed")
    with tempfile.TemporaryDirectory() as folder:
        trace, marks = pathlib.Path(folder) / "trace", pathlib.Path(folder) / "marks"
        marks.touch()
        done = subprocess.run(
            [*_STRACE, "-o", trace, "--", *command],
            env={**os.environ, **(environment or {}), MARKS: str(marks)},
            capture_output=True,
            text=True,
        )
        if "ptrace" in done.stderr and done.returncode:
            raise CannotRecord(done.stderr.strip().splitlines()[0])
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-4000:]}")
        with open(trace, encoding="ascii", errors="replace") as lines:
            return Recording(root, marks).operations(lines)


def mark(text: str) -> None:
    """Notes a fact in the recording, e.g. that a receipt has left; no-op without a recording."""
    if path := os.environ.get(MARKS):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, text.encode() + b"\n")
        os.close(descriptor)


class Recording:
    """Turns lines of strace into operations."""

    def __init__(self, root: pathlib.Path, marks: pathlib.Path):
        self._root, self._marks = os.fspath(root), os.fspath(marks)
        self._names: dict[int, dict[str, int]] = {ROOT: {}}
        self._sizes: dict[int, int] = {}
        self._inodes = 0
        self._offsets: dict[tuple[int, int], int] = {}
        self._appending: set[tuple[int, int]] = set()
        self._asked: dict[int, str] = {}  # task: the line of code whose sync comes next
        self._groups: dict[int, int] = {}  # task: the process whose descriptors it uses
        self._out: list[Operation] = []

    def operations(self, lines: Iterator[str]) -> list[Operation]:
        begun: dict[str, str] = {}
        for line in lines:
            line = line.rstrip("\n")
            if found := _UNFINISHED.match(line):
                begun[found[1]] = found[2]
                continue
            if found := _RESUMED.match(line):
                if found[1] not in begun:
                    continue
                line = f"{found[1]} {begun.pop(found[1])}{found[2]}"
            if found := _LINE.match(line):
                task, call, arguments, result, where = found.groups()
                if not result.startswith("-"):
                    self._call(int(task), call, arguments, int(result, 0), where)
        return self._out

    def _call(self, task: int, call: str, text: str, result: int, where: str | None) -> None:
        if call in ("clone", "clone3", "fork", "vfork"):
            thread = "CLONE_THREAD" in text
            self._groups[result] = self._groups.get(task, task) if thread else result
            return
        group = self._groups.setdefault(task, task)
        if call == "read":
            key = group, int(text.split(",")[0], 16)
            if key in self._offsets:
                self._offsets[key] += result
            return
        arguments = list(_arguments(text))
        handler = getattr(self, f"_on_{call}", None)
        if handler is not None:
            handler(task, group, arguments, result, _decoded(where[1:-1]) if where else "")

    # Descriptors.

    def _on_openat(self, task, group, arguments, result, where):
        flags = arguments[2].text
        self._opened((group, result), where, flags)

    def _on_open(self, task, group, arguments, result, where):
        self._opened((group, result), where, arguments[1].text)

    def _on_creat(self, task, group, arguments, result, where):
        self._opened((group, result), where, "O_WRONLY|O_CREAT|O_TRUNC")

    def _opened(self, key: tuple[int, int], path: str, flags: str) -> None:
        self._offsets[key] = 0
        self._appending.discard(key)
        if "O_APPEND" in flags:
            self._appending.add(key)
        if not self._within(path) or "O_DIRECTORY" in flags:
            return
        if "O_TMPFILE" in flags:
            raise RuntimeError(f"{path}: O_TMPFILE is not part of the model")
        folder, name, inode = self._find(path)
        if inode is None and "O_CREAT" in flags:
            inode = self._new()
            self._sizes[inode] = 0
            self._names[folder][name] = inode
            self._emit(path, Operation("file", inode, folder, name))
        elif inode in self._sizes and "O_TRUNC" in flags and self._sizes[inode]:
            self._sizes[inode] = 0
            self._emit(path, Operation("truncate", inode))

    def _on_dup(self, task, group, arguments, result, where):
        self._copied(group, arguments[0].number, result)

    _on_dup2 = _on_dup3 = _on_dup

    def _on_fcntl(self, task, group, arguments, result, where):
        if arguments[1].text.startswith("F_DUPFD"):
            self._copied(group, arguments[0].number, result)

    def _copied(self, group: int, old: int, new: int) -> None:
        self._offsets[group, new] = self._offsets.get((group, old), 0)

    def _on_lseek(self, task, group, arguments, result, where):
        self._offsets[group, arguments[0].number] = result

    # Data.

    def _on_write(self, task, group, arguments, result, where):
        path, data = arguments[0].path, arguments[1].data[:result]
        if path == self._marks:
            text = data.decode().rstrip("\n")
            if text.startswith("sync "):
                self._asked[task] = text.removeprefix("sync ")
            else:
                self._out.append(Operation("mark", text=text))
            return
        key = group, arguments[0].number
        inode = self._inode(path)
        if inode is None:
            return
        offset = self._sizes[inode] if key in self._appending else self._offsets.get(key, 0)
        self._write(path, inode, offset, data)
        self._offsets[key] = offset + result

    def _on_writev(self, task, group, arguments, result, where):
        data = b"".join(argument.data for argument in arguments)[:result]
        self._on_write(task, group, [arguments[0], _Argument(data=data)], result, where)

    def _on_pwrite64(self, task, group, arguments, result, where):
        if (inode := self._inode(arguments[0].path)) is not None:
            data, offset = arguments[1].data[:result], int(arguments[3].text, 0)
            self._write(arguments[0].path, inode, offset, data)

    def _on_pwritev(self, task, group, arguments, result, where):
        self._unknown("pwritev", arguments)

    def _on_copy_file_range(self, task, group, arguments, result, where):
        target = arguments[2]
        if (inode := self._inode(target.path)) is not None:
            raise RuntimeError(f"{target.path}: copy_file_range is not part of the model ({inode})")

    def _on_sendfile(self, task, group, arguments, result, where):
        """Of shutil.copyfile. The content is not in the trace; the source is a file outside."""
        target, source = arguments[0], arguments[1]
        if (inode := self._inode(target.path)) is None or not result:
            return
        key = group, target.number
        offset = self._offsets.get(key, 0)
        with open(source.path, "rb") as stream:
            position = self._offsets.get((group, source.number), 0)
            if arguments[2].text.startswith("["):
                position = int(arguments[2].text.strip("[]").split("]")[0])
            stream.seek(position)
            self._write(target.path, inode, offset, stream.read(result))
        self._offsets[key] = offset + result

    def _on_mmap(self, task, group, arguments, result, where):
        text = "".join(argument.text for argument in arguments)
        path = next((argument.path for argument in arguments if argument.path), "")
        if "PROT_WRITE" in text and "MAP_SHARED" in text and self._within(path):
            raise RuntimeError(f"{path}: written through a mapping, which strace cannot see")

    def _on_truncate(self, task, group, arguments, result, where):
        path = os.fsdecode(arguments[0].data)
        if (inode := self._inode(path)) is not None:
            self._truncate(path, inode, int(arguments[1].text, 0))

    def _on_ftruncate(self, task, group, arguments, result, where):
        if (inode := self._inode(arguments[0].path)) is not None:
            self._truncate(arguments[0].path, inode, int(arguments[1].text, 0))

    def _on_fallocate(self, task, group, arguments, result, where):
        if (inode := self._inode(arguments[0].path)) is not None:
            if "KEEP_SIZE" in arguments[1].text:
                return
            end = int(arguments[2].text, 0) + int(arguments[3].text, 0)
            if end > self._sizes[inode]:
                self._truncate(arguments[0].path, inode, end)

    def _emit(self, path: str, operation: Operation) -> None:
        place = os.path.relpath(path, self._root)
        self._out.append(dataclasses.replace(operation, place=place))

    def _write(self, path: str, inode: int, offset: int, data: bytes) -> None:
        self._sizes[inode] = max(self._sizes[inode], offset + len(data))
        self._emit(path, Operation("write", inode, offset=offset, data=data))

    def _truncate(self, path: str, inode: int, size: int) -> None:
        self._sizes[inode] = size
        self._emit(path, Operation("truncate", inode, offset=size))

    def _on_fsync(self, task, group, arguments, result, where):
        path = arguments[0].path
        asked = self._asked.pop(task, "")
        if not self._within(path):
            return
        inode = self._find(path)[2]
        if inode is not None:
            kind = "folder" if inode in self._names else "file"
            asked = asked or f"SQLite: {os.path.basename(path)}"
            self._emit(path, Operation("sync", inode, name=kind, text=asked))

    _on_fdatasync = _on_fsync

    # Names.

    def _on_mkdir(self, task, group, arguments, result, where):
        self._mkdir(_path(arguments))

    _on_mkdirat = _on_mkdir

    def _mkdir(self, path: str) -> None:
        if not self._within(path) or path == self._root:
            return
        folder, name, _ = self._find(path)
        inode = self._new()
        self._names[inode] = {}
        self._names[folder][name] = inode
        self._emit(path, Operation("folder", inode, folder, name))

    def _on_unlink(self, task, group, arguments, result, where):
        path = _path(arguments)
        if self._within(path) and path != self._root:
            folder, name, inode = self._find(path)
            del self._names[folder][name]
            self._emit(path, Operation("unlink", inode, folder, name))

    _on_unlinkat = _on_rmdir = _on_unlink

    def _on_rename(self, task, group, arguments, result, where):
        old, new = _paths(arguments)
        if not self._within(old) and not self._within(new):
            return
        if not self._within(old) or not self._within(new):
            raise RuntimeError(f"{old} to {new}: a rename across the border of the recording")
        old_folder, old_name, inode = self._find(old)
        folder, name, _ = self._find(new)
        del self._names[old_folder][old_name]
        self._names[folder][name] = inode
        self._emit(new, Operation("rename", inode, folder, name, old_folder, old_name))

    _on_renameat = _on_renameat2 = _on_rename

    def _on_link(self, task, group, arguments, result, where):
        old, new = _paths(arguments)
        if self._within(new):
            inode = self._find(old)[2]
            folder, name, _ = self._find(new)
            self._names[folder][name] = inode
            self._emit(new, Operation("link", inode, folder, name))

    _on_linkat = _on_link

    def _on_symlink(self, task, group, arguments, result, where):
        self._unknown("symlink", arguments)

    _on_symlinkat = _on_symlink

    def _unknown(self, call: str, arguments) -> None:
        text = [argument.path or os.fsdecode(argument.data) for argument in arguments]
        if any(map(self._within, text)):
            raise RuntimeError(f"{call} of {text}: not part of the model")

    # Paths.

    def _within(self, path: str) -> bool:
        """Whether a path is part of the recording.

        SQLite's index of its log, which does not survive a power cut, is not.
        """
        return path == self._root or (
            path.startswith(self._root + "/") and not path.endswith("-shm")
        )

    def _new(self) -> int:
        self._inodes += 1
        return self._inodes

    def _find(self, path: str) -> tuple[int, str, int | None]:
        """Returns the folder of a path, its last name, and its inode where there is one."""
        if path == self._root:
            return -1, "", ROOT
        folder = ROOT
        *parents, name = path[len(self._root) + 1 :].split("/")
        for parent in parents:
            folder = self._names[folder][parent]
        return folder, name, self._names[folder].get(name)

    def _inode(self, path: str) -> int | None:
        """Returns the file behind a descriptor; None outside the folder, and once it is removed."""
        if not self._within(path) or path.endswith(" (deleted)"):
            return None
        inode = self._find(path)[2]
        return inode if inode in self._sizes else None


class _Argument:
    """One argument of a call: its text, and its data and path if they are shown."""

    def __init__(self, text: str = "", data: bytes = b"", path: str = ""):
        self.text, self.data, self.path = text, data, path

    @property
    def number(self) -> int:
        return int(self.text, 0)


def _arguments(text: str) -> Iterator[_Argument]:
    for quoted, number, path, other in _TOKEN.findall(text):
        if number:
            yield _Argument(number, path=_decoded(path))
        elif other.strip(" ,"):
            for part in other.strip(" ,").split(","):
                yield _Argument(part.strip())
        elif not other:
            yield _Argument(data=bytes.fromhex(quoted.replace("\\x", "")))


def _decoded(text: str) -> str:
    return os.fsdecode(
        re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode())
    )


def _paths(arguments: Sequence[_Argument]) -> list[str]:
    """Returns the paths of a call, each joined with the folder that a descriptor before it names."""
    result, at = [], ""
    for argument in arguments:
        if argument.path:
            at = argument.path
        elif argument.data:
            path = os.path.normpath(os.path.join(at, os.fsdecode(argument.data)))
            if not os.path.isabs(path):
                raise RuntimeError(f"{path}: a relative path is not part of the recording's model")
            result.append(path)
            at = ""
    return result


def _path(arguments: Sequence[_Argument]) -> str:
    return _paths(arguments)[0]
