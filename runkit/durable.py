"""Names in a folder that survive a power cut."""

from __future__ import annotations

import os


def sync_directory(folder: str | os.PathLike) -> None:
    """Makes the entries created, renamed or removed in `folder` survive a power cut.

    Does nothing where folders cannot be opened (Windows). Errors name the folder, which the system
    leaves out.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = os.fspath(folder)
        raise
    finally:
        os.close(descriptor)
