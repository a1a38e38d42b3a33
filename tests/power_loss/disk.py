"""A disk as operations on inodes, and the states in which a power cut can leave it.

The model is weaker than any file system in use (as in ALICE, Pillai et al., OSDI 2014):

- Data and size of a file are safe only after a sync of that file. Before that, each write may be
  present or not, in any order; a write that is present may be torn at a multiple of 512 bytes, or
  may have extended the file with zeros only.
- A name in a folder (created, renamed, linked, removed) is safe only after a sync of that folder.
  Before that, each change of a name may be present or not, in any order. A rename is atomic.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence

ROOT = 0
SECTOR = 512
WAYS = ("none", "all", "data", "names", "all but one", "one", "zeros", "torn", "some")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One effect on the disk, in the order in which the system calls returned.

    kind: "file" or "folder" (a new inode with a name), "link", "unlink", "rename", "write",
      "truncate", "sync" (of a file's data, or of a folder's names), or "mark" (no effect: a fact
      that the program made known to others).
    inode: the file or folder it is about; the inode that gets the name.
    folder, name: where the name is; old_folder, old_name: where a renamed one was.
    """

    kind: str
    inode: int = -1
    folder: int = -1
    name: str = ""
    old_folder: int = -1
    old_name: str = ""
    offset: int = 0
    data: bytes = b""
    text: str = ""  # of a mark; of a sync, the function that asked for it
    place: str = ""  # path at that time, from the root of the recording


@dataclasses.dataclass(frozen=True)
class Cut:
    """A power cut after `position` operations, with some of the unsynced ones on the disk.

    partial: operation to how its data arrived: ("torn", bytes) or ("zeros", 0).
    way: which of the unsynced ones these are, one of `WAYS`.
    """

    position: int
    kept: frozenset[int]
    partial: Mapping[int, tuple[str, int]] = dataclasses.field(default_factory=dict)
    way: str = "some"


def unsynced(operations: Sequence[Operation], position: int) -> list[int]:
    """Returns which of the first `position` operations a power cut may undo."""
    result = []
    names_synced: set[int] = set()
    data_synced: set[int] = set()
    for index in range(position - 1, -1, -1):
        operation = operations[index]
        if operation.kind == "sync":
            (names_synced if operation.name == "folder" else data_synced).add(operation.inode)
        elif operation.kind in ("write", "truncate"):
            if operation.inode not in data_synced:
                result.append(index)
        elif operation.kind != "mark" and operation.folder not in names_synced:
            result.append(index)
    return result[::-1]


def tree(operations: Sequence[Operation], cut: Cut) -> dict[str, bytes | None]:
    """Returns path -> content (None for a folder) of the disk after a cut."""
    open_ = set(unsynced(operations, cut.position))
    names: dict[int, dict[str, int]] = {ROOT: {}}
    data: dict[int, bytearray] = {}
    for index in range(cut.position):
        if index in open_ and index not in cut.kept:
            operation = operations[index]
            if operation.kind == "folder":
                names.setdefault(operation.inode, {})
            elif operation.kind == "file":
                data.setdefault(operation.inode, bytearray())
            continue
        _apply(operations[index], names, data, cut.partial.get(index))
    result: dict[str, bytes | None] = {}
    _walk(ROOT, "", names, data, result)
    return result


def _apply(
    operation: Operation,
    names: dict[int, dict[str, int]],
    data: dict[int, bytearray],
    partial: tuple[str, int] | None,
) -> None:
    if operation.kind in ("file", "folder", "link"):
        if operation.kind == "folder":
            names.setdefault(operation.inode, {})
        elif operation.kind == "file":
            data.setdefault(operation.inode, bytearray())
        names[operation.folder][operation.name] = operation.inode
    elif operation.kind == "unlink":
        if names[operation.folder].get(operation.name) == operation.inode:
            del names[operation.folder][operation.name]
    elif operation.kind == "rename":
        if names[operation.old_folder].get(operation.old_name) == operation.inode:
            del names[operation.old_folder][operation.old_name]
        names[operation.folder][operation.name] = operation.inode
    elif operation.kind == "truncate":
        content = data[operation.inode]
        del content[operation.offset :]
        content.extend(bytes(operation.offset - len(content)))
    elif operation.kind == "write":
        content, written = data[operation.inode], operation.data
        if partial is not None and partial[0] == "torn":
            written = written[: partial[1]]
        end = operation.offset + len(written)
        content.extend(bytes(max(0, end - len(content))))
        if partial is None or partial[0] == "torn":
            content[operation.offset : end] = written


def _walk(
    inode: int,
    path: str,
    names: Mapping[int, Mapping[str, int]],
    data: Mapping[int, bytearray],
    result: dict[str, bytes | None],
) -> None:
    for name, child in sorted(names[inode].items()):
        there = f"{path}/{name}" if path else name
        if child in names:
            result[there] = None
            _walk(child, there, names, data, result)
        else:
            result[there] = bytes(data[child])


def digest(content: Mapping[str, bytes | None]) -> str:
    found = hashlib.sha256()
    for path, value in sorted(content.items()):
        found.update(f"{path}\0{-1 if value is None else len(value)}\0".encode())
        found.update(value or b"")
    return found.hexdigest()


def without_syncs(
    operations: Sequence[Operation], texts: Collection[str], *, reach: int = 60
) -> tuple[list[Operation], set[int]]:
    """Returns the recording without the syncs of these functions, and the affected positions.

    The positions where a missing sync may show are the next `reach` after each.
    """
    result: list[Operation] = []
    positions: set[int] = set()
    for operation in operations:
        if operation.kind == "sync" and operation.text in texts:
            positions.update(range(len(result), len(result) + reach))
        else:
            result.append(operation)
    return result, positions


def cuts(
    operations: Sequence[Operation],
    rng: random.Random,
    *,
    below: frozenset[str] | None = None,
    positions: Collection[int] | None = None,
) -> Iterator[Cut]:
    """Yields cuts after every operation, the likeliest faults of each position first.

    At each position: nothing unsynced arrived; all of it (what a kill leaves); all data without
    names, all names without data; all but one; one alone; the last write torn or zeros; a random
    part.

    Args:
      below: top-level folders that lose power; the others keep everything. None means all.
      positions: only after so many operations.
    """
    for position in range(1, len(operations) + 1):
        last = operations[position - 1]
        if last.kind == "sync" or (positions is not None and position not in positions):
            continue  # the next operation shows what it did; a cut here is one that came before it
        every = unsynced(operations, position)
        loose = [i for i in every if below is None or operations[i].place.split("/")[0] in below]
        sure = frozenset(every) - frozenset(loose)
        for way, part, partial in _parts(operations, loose, rng):
            yield Cut(position, part | sure, partial, way)


def _parts(
    operations: Sequence[Operation], loose: Sequence[int], rng: random.Random
) -> Iterator[tuple[str, frozenset[int], dict[int, tuple[str, int]]]]:
    """Yields one of `WAYS`, which of the unsynced operations arrived, and which of those in part."""
    yield "none", frozenset(), {}
    if not loose:
        return
    every = frozenset(loose)
    writes = [i for i in loose if operations[i].kind in ("write", "truncate")]
    yield "all", every, {}
    yield "data", frozenset(writes), {}
    yield "names", every - frozenset(writes), {}
    for index in loose[-6:]:
        yield "all but one", every - {index}, {}
        yield "one", frozenset({index}), {}
    for index in [i for i in writes if operations[i].data][-3:]:
        size = len(operations[index].data)
        yield "zeros", every, {index: ("zeros", 0)}
        if size > SECTOR:
            yield "torn", every, {index: ("torn", rng.randrange(SECTOR, size, SECTOR))}
    for _ in range(3):
        part = frozenset(i for i in loose if rng.random() < 0.5)
        yield (
            "some",
            part,
            {
                i: ("torn", rng.randrange(0, len(operations[i].data), SECTOR))
                for i in sorted(part)
                if len(operations[i].data) > SECTOR and rng.random() < 0.3
            },
        )
