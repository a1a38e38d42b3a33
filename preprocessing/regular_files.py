"""Files that can be read to their end, as opposed to pipes, devices, and links whose target is not
there.
"""

from __future__ import annotations

import errno
import os
import stat

from preprocessing.checks import rules
from preprocessing.checks.rules import IntegrityError, broken


def require(path: str | os.PathLike) -> None:
    """Raises OSError if a path is a pipe, a socket or a device, for which a reader may wait without
    end, or cannot be looked at.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", os.fspath(path))


def not_there(link: str | os.PathLike, fix: str) -> IntegrityError:
    """Returns why a link without a target cannot be read; in a DataLad dataset with the command
    that fetches it.
    """
    target = os.readlink(link)
    if "annex/objects/" in target.replace("\\", "/"):
        return broken(
            rules.MISSING,
            link,
            "is a link whose content was not fetched",
            f"datalad get {link} (or git annex get {link})",
        )
    return broken(rules.MISSING, link, f"is a link to {target}, which is not there", fix)
