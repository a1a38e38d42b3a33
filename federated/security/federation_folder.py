"""The folder in which a federation is provisioned, one process at a time, also after a kill.

Until a new federation is complete, a file `.unfinished` lists its kits.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence

from federated.security.authority import Authority
from federated.wire.site_names import RESERVED, SITE_NAME
from runkit import atomic, folder_lock

UNFINISHED = ".unfinished"


@contextlib.contextmanager
def opened(folder: str | os.PathLike) -> Iterator[Authority]:
    """Opens the authority of a folder for this process alone.

    First restores the kits whose replacement was interrupted, and removes partial files.

    Raises:
      ValueError: if no federation was provisioned there, or another process works in it.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the folder in which the federation was provisioned"
        )
    with folder_lock.hold(folder):
        if (folder / UNFINISHED).exists():
            raise ValueError(
                f"{folder}: the program that was to provision it did not finish; run the same "
                "command again"
            )
        atomic.restore_folder(folder / "authority")
        authority = Authority.of(folder)
        names = {entry["name"] for entry in authority.about["issued"]}
        for name in names:
            atomic.restore_folder(folder / name)
        _remove_all_partial(folder, names)
        yield authority


def is_provisioned(folder: str | os.PathLike) -> bool:
    """Returns whether a folder holds a complete federation."""
    folder = pathlib.Path(folder)
    return (folder / "authority").is_dir() and not (folder / UNFINISHED).exists()


def remove_unfinished(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Removes the kits of a new federation that a kill or an error prevented, and partial files."""
    marker = folder / UNFINISHED
    if marker.is_file():
        for name in marker.read_text(encoding="utf-8").split():
            if name in RESERVED or SITE_NAME.fullmatch(name):  # never a path out of the folder
                shutil.rmtree(folder / name, ignore_errors=True)
        marker.unlink()
    for path in atomic.leftovers(folder):
        if path.is_file() and not path.suffix:  # of the marker; temporary names keep the suffix
            path.unlink()
    _remove_all_partial(folder, names)


def _remove_all_partial(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Removes what kills left of kits and in them; other programs may use the same folder."""
    for path in atomic.leftovers(folder):
        if path.is_dir() and not path.name.endswith("-before"):  # see `atomic.restore_folder`
            shutil.rmtree(path, ignore_errors=True)
    for name in (*RESERVED, *names):
        remove_partial(folder / name)


def remove_partial(kit: pathlib.Path) -> None:
    """Removes what a kill left in a kit under a temporary name, because it may hold a key."""
    for path in atomic.leftovers(kit):
        if path.is_file():
            path.unlink(missing_ok=True)
