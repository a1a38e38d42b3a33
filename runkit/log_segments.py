"""A log in segments: `events.jsonl` grows, and full segments lie beside it, compressed.

    events.jsonl                the segment that is written to
    events/000001.jsonl.gz      the first one, and so on

The first line of every segment except the first is an event `log_continued`, with the number of the
segment as `segment`. An archived segment counts only if its number is lower than that of
`events.jsonl`, because a kill can leave a copy of the segment that was about to be replaced.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import re
import shutil
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from runkit import atomic

CONTINUED = "log_continued"
_NAME = re.compile(r"(\d{6,})\.jsonl\.gz")


def archive_path(log: pathlib.Path, number: int) -> pathlib.Path:
    """Returns the file of a full segment of a log."""
    return log.with_suffix("") / f"{number:06d}.jsonl.gz"


def archived(log: pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns number to file of the archived segments, in order."""
    folder = log.with_suffix("")
    if not folder.is_dir():
        return {}
    found = {
        int(name[1]): path for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def archive(log: pathlib.Path, number: int) -> pathlib.Path:
    """Compresses the segment that is written to; returns the file, which survives a power cut."""
    path = archive_path(log, number)
    with (
        atomic.replacing(path) as temporary,
        open(log, "rb") as plain,
        open(temporary, "wb") as packed,
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream,
    ):
        shutil.copyfileobj(plain, stream)
    return path


def segment_of(first_line: bytes) -> int:
    """Returns the number of the segment that begins with this line."""
    try:
        record = json.loads(first_line)
    except ValueError:
        return 1
    continued = isinstance(record, dict) and record.get("event") == CONTINUED
    number = record.get("segment") if continued else 1
    return number if type(number) is int and number > 0 else 1


def before(log: pathlib.Path, segment: int) -> list[pathlib.Path]:
    """Returns the archived segments before this one, in order."""
    return [path for number, path in archived(log).items() if number < segment]


def remove_partial(log: pathlib.Path) -> None:
    """Removes the partial file that a kill left of a segment that was being compressed."""
    for path in atomic.leftovers(log.with_suffix("")):
        path.unlink(missing_ok=True)


def lines(archive: pathlib.Path, file: BinaryIO | None = None) -> Iterator[bytes]:
    """Yields the lines of an archived segment.

    Args:
      file: the segment, if it is already open.
    Raises:
      ValueError: naming the file, if its content is damaged.
    """
    try:
        with atomic.naming(archive), gzip.open(file or archive, "rb") as stream:
            yield from stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{archive}: this segment of the log is damaged ({error}); restore it from a backup"
        ) from error
