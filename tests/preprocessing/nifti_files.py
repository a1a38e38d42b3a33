"""Edits of NIfTI files that libraries do not offer."""

from __future__ import annotations

import gzip
import pathlib
import struct


def without_orientation(path: pathlib.Path) -> pathlib.Path:
    """Sets both form codes of a compressed file to 0."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<hh", raw, 252, 0, 0)
    path.write_bytes(gzip.compress(bytes(raw), 1))
    return path
