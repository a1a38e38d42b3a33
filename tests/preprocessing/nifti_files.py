"""Edits and comparisons of NIfTI files that libraries do not offer."""

from __future__ import annotations

import gzip
import pathlib
import struct

# Fields of a header that say where its voxels are.
_PLACE = (
    *("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "pixdim", "dim", "xyzt_units"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)


def without_orientation(path: pathlib.Path) -> pathlib.Path:
    """Sets both form codes of a compressed file to 0."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<hh", raw, 252, 0, 0)
    path.write_bytes(gzip.compress(bytes(raw), 1))
    return path


def assert_same_place(found, expected):
    """Two headers place their voxels alike, bit by bit."""
    for name in _PLACE:
        assert found[name].tobytes() == expected[name].tobytes(), name
