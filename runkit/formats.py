"""Version numbers of file formats: files written by a newer release are refused by name.

A format gets the next number when earlier releases can no longer read it. In some formats, files of
release 0.1.0 do not state a number; they have the first one.
"""

from __future__ import annotations

import os
from typing import Any

from runkit import atomic, release


def refuse_newer(path: str | os.PathLike, found: object, own: int, *, unstated: int = 1) -> None:
    """Refuses a file of a format that this release does not know yet.

    Args:
      path: the file, for the message.
      found: number in the file, as an integer or its digits; None if the file does not state one.
      own: the newest number that this release reads.
      unstated: number of a file that does not state one.
    Raises:
      ValueError: naming the file, both numbers and the remedy.
    """
    if found is None:
        found = unstated
    if isinstance(found, str) and found.isascii() and found.isdecimal():
        found = int(found)
    if type(found) is not int or found < 1:
        raise ValueError(
            f"{os.fspath(path)}: its format is {str(found)[:40]!r}, expected a number up to {own}; "
            "restore the file from a backup"
        )
    if found > own:
        raise ValueError(
            f"{os.fspath(path)}: has format {found}, which a newer release wrote; this release "
            f"({release.version()}) reads formats up to {own}. Install the release that wrote it"
        )


def read_json(path: str | os.PathLike, own: int, *, remedy: str = atomic.REMEDY) -> Any:
    """Reads a JSON file of a format with a number; anything but an object is returned unchecked.

    Args:
      own: the newest number that this release reads.
      remedy: what to do if it is not JSON.
    Raises:
      ValueError: naming the file, if it is not JSON or a newer release wrote it.
    """
    content = atomic.read_json(path, remedy=remedy)
    if isinstance(content, dict):
        refuse_newer(path, content.get("format"), own)
    return content
