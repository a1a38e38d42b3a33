"""Tells files that can be read to their end from pipes, devices and links without a target."""

from __future__ import annotations

import errno
import os
import stat

from preprocessing import rules
from preprocessing.rules import IntegrityError, broken


def require_readable(path: str | os.PathLike) -> None:
    """Raises OSError unless a path is a file or a folder.

    Reading a pipe, a socket or a device may never end.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", os.fspath(path))


def not_there(link: str | os.PathLike, fix: str) -> IntegrityError:
    """Returns the error for a link without a target.

    Args:
      fix: the remedy; in a DataLad dataset, the command that fetches the file is used instead.
    """
    target = os.readlink(os.fspath(link))
    if "annex/objects/" in target.replace("\\", "/"):
        problem = "is a link whose content was not fetched"
        fix = f"datalad get {link} (or git annex get {link})"
        return broken(rules.MISSING, link, problem, fix)
    return broken(rules.MISSING, link, f"is a link to {target}, which does not exist", fix)
