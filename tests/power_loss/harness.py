"""Restarts a program on the states that a power cut can leave, and counts."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import pathlib
import random
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from tests.power_loss import disk
from tests.power_loss.disk import Cut, Operation


@dataclasses.dataclass(frozen=True)
class Failure:
    cut: Cut
    lost: tuple[str, ...]  # what was not on the disk
    error: BaseException

    def __str__(self) -> str:
        lost = ", ".join(self.lost[:8]) + (f" and {len(self.lost) - 8} more" * (len(self.lost) > 8))
        return (
            f"after operation {self.cut.position}, lost: {lost or 'nothing'}; "
            f"{type(self.error).__name__}: {self.error}"
        )


def sampled(
    operations: Sequence[Operation],
    count: int,
    *,
    seed: int = 1,
    below: Iterable[str] | None = None,
    positions: Collection[int] | None = None,
) -> list[Cut]:
    """Returns up to `count` cuts that leave different disks, spread evenly over the run.

    Args:
      below: folders at the top that lose power; the others keep everything.
      positions: only after so many operations.
    """
    rng = random.Random(seed)
    by_position: dict[int, list[Cut]] = collections.defaultdict(list)
    for cut in disk.cuts(
        operations, rng, below=None if below is None else frozenset(below), positions=positions
    ):
        by_position[cut.position].append(cut)
    order = []  # the first of each position, then the second, ...
    for rank in range(max(map(len, by_position.values()), default=0)):
        row = [found[rank] for found in by_position.values() if rank < len(found)]
        rng.shuffle(row)
        order += row
    return list(itertools.islice(_different(operations, order), count))


def of_every_way(
    operations: Sequence[Operation],
    each: int,
    *,
    seed: int = 1,
    below: Iterable[str] | None = None,
) -> list[Cut]:
    """Returns that many cuts of each of `disk.WAYS`, anywhere in the run; see `sampled`."""
    rng = random.Random(seed)
    by_way: dict[str, list[Cut]] = {way: [] for way in disk.WAYS}
    for cut in disk.cuts(operations, rng, below=None if below is None else frozenset(below)):
        by_way[cut.way].append(cut)
    order = []
    for found in by_way.values():
        rng.shuffle(found)
        order.append(_different(operations, found))
    return [cut for cuts in order for cut in itertools.islice(cuts, each)]


def _different(operations: Sequence[Operation], cuts: Iterable[Cut]) -> Iterator[Cut]:
    """Yields the cuts whose disk or number of marks differs from that of every earlier cut."""
    seen: set[tuple[str, int]] = set()
    for cut in cuts:
        marks = sum(operation.kind == "mark" for operation in operations[: cut.position])
        key = disk.digest(disk.tree(operations, cut)), marks
        if key not in seen:
            seen.add(key)
            yield cut


def try_all(
    operations: Sequence[Operation],
    cuts: Iterable[Cut],
    check: Callable[[pathlib.Path, Sequence[str]], None],
    *,
    stop_after: int = 5,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Failure]:
    """Restarts on every cut; returns the failures, at most `stop_after`.

    Args:
      check: called with a folder as the cut left it and with the marks before the cut; raises if a
          condition does not hold.
    """
    failures = []
    for done, cut in enumerate(cuts, 1):
        with tempfile.TemporaryDirectory(dir=_memory()) as name:
            folder = pathlib.Path(name) / "disk"
            write(folder, disk.tree(operations, cut))
            marks = [o.text for o in operations[: cut.position] if o.kind == "mark"]
            try:
                check(folder, marks)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failures.append(Failure(cut, _lost(operations, cut), error))
                if len(failures) >= stop_after:
                    break
        progress(done)
    return failures


def write(folder: pathlib.Path, content: Mapping[str, bytes | None]) -> None:
    folder.mkdir(mode=0o700)
    for path, value in content.items():
        if value is None:
            (folder / path).mkdir(mode=0o700)
        else:
            (folder / path).write_bytes(value)
            (folder / path).chmod(0o600)


def _lost(operations: Sequence[Operation], cut: Cut) -> tuple[str, ...]:
    loose = disk.unsynced(operations, cut.position)
    result = [f"{operations[i].kind} {operations[i].place}" for i in loose if i not in cut.kept]
    result += [f"{how} {operations[i].place}" for i, (how, _) in cut.partial.items()]
    return tuple(result)


def _memory() -> str | None:
    """Returns a folder in memory if there is one, because thousands of disks are written."""
    return "/dev/shm" if shutil.os.path.isdir("/dev/shm") else None
