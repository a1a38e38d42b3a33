"""Archives of a computation's small files, in the docs: equal content gives equal bytes."""

from __future__ import annotations

import io
import pathlib
import tarfile
from collections.abc import Iterable

from runkit import atomic


def write(archive: pathlib.Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes an archive.

    Args:
      archive: a name that ends in ".tar.xz".
      files: the name in the archive and the content of each file, in their order.
    """
    with atomic.replacing(archive) as path, tarfile.open(path, "w:xz", preset=9) as packed:
        for name, content in files:
            member = tarfile.TarInfo(name)  # of no user, at no time
            member.size, member.mode = len(content), 0o644
            packed.addfile(member, io.BytesIO(content))
