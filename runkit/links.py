"""Folders that hold files only: a link in them could lead a program to write, or read, somewhere else."""

from __future__ import annotations

import os
import pathlib


def refuse(folder: str | os.PathLike, *, what: str) -> None:
    """Raises ValueError naming the first symbolic link inside a folder. The folder itself may be reached by one.

    Args:
      what: the folder's kind, for the message, e.g. "a store".
    """
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = pathlib.Path(parent) / name
            if path.is_symlink():
                raise ValueError(f"{path}: is a link; {what} holds files only: put what it leads to in its place, or give another folder")
