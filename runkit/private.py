"""Files that other accounts on the machine cannot read, whatever the umask.

One rule: a new file or folder never grants more rights than the folder that holds it. A folder made
by `folder` is open only to this account (0700), and so is everything that this package writes below
it (0700 and 0600). In any other folder the umask decides, as usual.
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
    """Creates a folder that only this account may enter, or closes an existing one; returns it.

    The contents of an existing folder keep their permissions, although nobody else can now reach
    them; see `tree`.
    """
    path = make(path)
    _close(path)
    return path


def tree(path: str | os.PathLike) -> pathlib.Path:
    """Like `folder`, but also closes everything in the folder, e.g. older files."""
    path = folder(path)  # first, so that nobody can swap its entries while they are examined
    for entry in list(open_to_others(path)):
        with contextlib.suppress(FileNotFoundError):  # another process has since removed it
            _close(entry)
    return path


def make(path: str | os.PathLike) -> pathlib.Path:
    """Creates a folder and its missing parents, none granting more rights than its own parent.

    They survive a power cut.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        if path.parent != path:
            make(path.parent)
        try:
            path.mkdir(mode=0o777 & _given(path.parent))
            # Otherwise a power cut could remove the folder with everything that is synced in it.
            sync_directory(path.parent)
        except FileExistsError:  # another process was faster, or it is not a folder
            if not path.is_dir():
                raise
    return path


def opener(path: str | os.PathLike, flags: int) -> int:
    """Opens a file under the rule above; for `open(..., opener=opener)`."""
    return os.open(path, flags, 0o666 & _given(os.path.dirname(path) or os.curdir))


def inherit(path: str | os.PathLike) -> None:
    """Applies the rule to files that another library wrote: `path` and everything in it."""
    if not _given(pathlib.Path(path).parent) & _OTHERS:
        tree(path)


def mode_in(parent: str | os.PathLike, wanted: int) -> int:
    """Returns the mode for something new in `parent`: `wanted`, limited by `parent` and umask."""
    given = _given(parent)
    return wanted & given & ~(_umask() if given & _OTHERS else 0)


def open_to_others(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the folder and everything in it that grants other accounts a right. Skips links."""
    path = pathlib.Path(path)
    try:
        if path.stat().st_mode & _OTHERS:
            yield path
        entries = list(os.scandir(path))
    except (FileNotFoundError, PermissionError):
        return  # removed since, or another account's, such as lost+found
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from open_to_others(entry.path)
        elif not entry.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mode & _OTHERS:
                    yield pathlib.Path(entry.path)


def refuse_link(path: str | os.PathLike[str]) -> None:
    """Raises ValueError if `path` is a symbolic link, which could redirect a read or a write."""
    if os.path.islink(path):
        raise ValueError(
            f"{path}: is a symbolic link to {os.readlink(os.fspath(path))!r}; "
            "put the file itself in its place"
        )


def refuse_links(path: str | os.PathLike, *, recursive: bool = False) -> None:
    """Raises ValueError naming the first symbolic link in a folder, if there is such a folder.

    Args:
      recursive: also checks the folders in the folder.
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
    # It can only be read by setting it; files that another thread then creates are private.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
