"""Files that other accounts of the machine cannot read, whatever the umask.

One rule does it: a new file or folder is never more open than the folder that holds it. A folder
made by `folder` is open to this account only (0700), so what is written below it by this package is
too (0700 and 0600). In any other folder the umask decides, as usual.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
from collections.abc import Iterator

from absl import logging

from runkit.durable import sync_directory

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_warned: set[str] = set()


def folder(path: str | os.PathLike) -> pathlib.Path:
    """Makes a folder that only this account may enter, or closes the one that is there; returns it.

    What an existing folder holds keeps its permissions, though nobody else can reach it any longer;
    see `tree`.
    """
    path = make(path)
    _close(path)
    return path


def tree(path: str | os.PathLike) -> pathlib.Path:
    """Does what `folder` does, and closes everything in the folder too, such as what an earlier
    release wrote there.
    """
    path = folder(path)  # first of all: nobody can exchange its entries while they are looked at
    for entry in list(open_to_others(path)):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it meanwhile
            _close(entry)
    return path


def make(path: str | os.PathLike) -> pathlib.Path:
    """Makes a folder and those above it that are missing, none more open than the one that holds
    it. A power cut does not take it away again.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        if path.parent != path:
            make(path.parent)
        try:
            path.mkdir(mode=0o777 & _given(path.parent))
            # Without this, a power cut could take the folder with all that is synced in it.
            sync_directory(path.parent)
        except FileExistsError:  # another process was quicker, or it is no folder
            if not path.is_dir():
                raise
    return path


def opener(path: str | os.PathLike, flags: int) -> int:
    """Opens a file; a new one is no more open than its folder. Fits `open(..., opener=opener)`."""
    return os.open(path, flags, 0o666 & _given(pathlib.Path(path).parent))


def inherit(path: str | os.PathLike) -> None:
    """Applies the rule to what another library has written: `path` and all in it become no more
    open than the folder of `path`.
    """
    if not _given(pathlib.Path(path).parent) & _OTHERS:
        tree(path)


def mode_in(parent: str | os.PathLike, wanted: int) -> int:
    """Returns the permissions of something new in `parent`: those wanted, less what the umask and
    the folder withhold.
    """
    given = _given(parent)
    return wanted & given & ~(_umask() if given & _OTHERS else 0)


def open_to_others(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the folder and whatever in it gives other accounts a right. Links are passed over, not
    followed.
    """
    path = pathlib.Path(path)
    try:
        if path.stat().st_mode & _OTHERS:
            yield path
        entries = list(os.scandir(path))
    except (
        FileNotFoundError,
        PermissionError,
    ):  # removed meanwhile, or another account's, such as lost+found
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from open_to_others(entry.path)
        elif not entry.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mode & _OTHERS:
                    yield pathlib.Path(entry.path)


def refuse_link(path: str | os.PathLike) -> None:
    """Raises ValueError where `path` is a symbolic link: whoever may make one decides what is read
    or written in its place.
    """
    if os.path.islink(path):
        raise ValueError(
            f"{path}: is a symbolic link to {os.readlink(path)!r}; put the file itself in its place"
        )


def refuse_links(path: str | os.PathLike, *, recursive: bool = False) -> None:
    """Raises ValueError naming the first symbolic link in a folder. A folder that is missing has
    none.

    Args:
      recursive: looks into the folders of the folder, too.
    """
    if os.path.isdir(path):
        for entry in sorted(os.listdir(path)):
            inside = os.path.join(path, entry)
            refuse_link(inside)
            if recursive:
                refuse_links(inside, recursive=True)


def _given(parent: str | os.PathLike) -> int:
    return stat.S_IMODE(os.stat(parent).st_mode) & 0o777 | stat.S_IRWXU


def _close(path: pathlib.Path) -> None:
    mode = path.stat().st_mode
    wanted = stat.S_IMODE(mode) & ~_OTHERS | (stat.S_IRWXU if stat.S_ISDIR(mode) else 0)
    if stat.S_IMODE(mode) == wanted:
        return
    why = "a folder that accounts share, such as /tmp, is left as it is"
    try:
        if not mode & stat.S_ISVTX:
            os.chmod(path, wanted)
            if not path.stat().st_mode & _OTHERS:
                return
            why = "the file system keeps no permissions"
    except OSError as error:
        why = error.strerror or str(error)
    if str(path) not in _warned:
        _warned.add(str(path))
        logging.warning(
            "event=not_private path=%s note=other_accounts_may_read_it reason=%s", path, why
        )


def _umask() -> int:
    mask = os.umask(
        0o077
    )  # set for a moment, so that what another thread makes just now is private rather than open
    os.umask(mask)
    return mask
