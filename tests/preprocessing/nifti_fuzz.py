"""Seeded mutations of NIfTI files, as damaged disks and unusual exporters produce them.

They affect headers, the size of the data, and the compressed stream.
"""

from __future__ import annotations

import gzip
import pathlib
import struct
from collections.abc import Iterator

import numpy as np

from tests.preprocessing.corpus_files import AFFINE, CT, LABEL, nifti

# offset and type of the fields of a NIfTI-1 header that say what and where the voxels are
FIELDS = {
    "sizeof_hdr": (0, "i"),
    **{f"dim{i}": (40 + 2 * i, "h") for i in range(8)},
    "intent_code": (68, "h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    **{f"pixdim{i}": (76 + 4 * i, "f") for i in range(8)},
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "xyzt_units": (123, "B"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    **{f"quatern_{name}": (256 + 4 * i, "f") for i, name in enumerate("bcd")},
    **{f"qoffset_{name}": (268 + 4 * i, "f") for i, name in enumerate("xyz")},
    **{f"srow{i}": (280 + 4 * i, "f") for i in range(12)},
    "magic": (344, "4s"),
}
_WHOLE = (
    0,
    1,
    -1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    64,
    77,
    128,
    255,
    256,
    348,
    512,
    540,
    1280,
    1536,
    2304,
    -32768,
    32767,
    2**31 - 1,
)
_REAL = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    3.0,
    -3.0,
    1e-30,
    1e-6,
    1e6,
    1e30,
    -1e30,
    352.0,
    353.5,
    400.0,
    3e38,
    np.nan,
    np.inf,
    -np.inf,
    1.0000004,
)
_MAGIC = (b"n+1\0", b"ni1\0", b"n+2\0", b"n+9\0", b"nii\0", b"\0\0\0\0", b"n+1\x20")


def whole_files(
    folder: pathlib.Path, hu: np.ndarray = CT.array, label: np.ndarray = LABEL.array
) -> tuple[bytes, bytes]:
    """Returns a scan and its label as uncompressed files with sform and qform."""
    for name, array in (("image", hu), ("label", label)):
        nifti(
            folder / f"{name}.nii",
            array,
            AFFINE,
            change=lambda raw: struct.pack_into("<h", raw, 252, 1),
        )
    contents = (folder / "image.nii").read_bytes(), (folder / "label.nii").read_bytes()
    for name in ("image", "label"):
        (folder / f"{name}.nii").unlink()
    return contents


def mutations(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields, without end, a description of the mutation and the bytes of the compressed file."""
    rng = np.random.default_rng(seed)
    while True:
        raw, changes = bytearray(content), []
        kind = rng.integers(0, 20)
        if kind < 13:  # one to three fields, each by a value that exporters write or a random one
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                name = str(rng.choice(list(FIELDS)))
                offset, code = FIELDS[name]
                value = _value(rng, code)
                struct.pack_into("<" + code, raw, offset, value)
                changes.append(f"{name}={value!r}")
            yield ", ".join(changes), gzip.compress(bytes(raw), 1, mtime=0)
        elif kind < 16:  # bits of the header
            for _ in range(rng.integers(1, 9)):
                bit = int(rng.integers(0, 352 * 8))
                raw[bit // 8] ^= 1 << bit % 8
                changes.append(f"bit {bit}")
            yield ", ".join(changes), gzip.compress(bytes(raw), 1, mtime=0)
        elif kind == 16:  # both codes as given, with other values around
            codes = rng.integers(-1, 5, 2)
            struct.pack_into("<hh", raw, 252, *map(int, codes))
            struct.pack_into("<f", raw, 76, float(rng.choice([-1, 0, 1, 2])))
            yield f"codes {codes}, qfac", gzip.compress(bytes(raw), 1, mtime=0)
        elif kind == 17:  # another length
            length = int(rng.integers(0, len(raw) + 4000))
            yield (
                f"{length} bytes",
                gzip.compress(bytes(raw[:length]).ljust(length, b"\1"), 1, mtime=0),
            )
        else:  # the compressed stream
            packed = bytearray(gzip.compress(bytes(raw), 1, mtime=0))
            if kind == 18:
                place = int(rng.integers(0, len(packed)))
                packed[place] ^= 1 << int(rng.integers(0, 8))
                yield f"compressed bit at byte {place}", bytes(packed)
            else:
                tail = [
                    bytes(int(rng.integers(1, 600))),
                    rng.bytes(int(rng.integers(1, 40))),
                    bytes(packed[:300]),
                    bytes(packed),
                ][rng.integers(0, 4)]
                cut = int(rng.choice([0, 0, 1, 8, 400]))
                yield (
                    f"{cut} bytes cut, {len(tail)} added",
                    bytes(packed[: len(packed) - cut]) + tail,
                )


def _value(rng: np.random.Generator, code: str):
    if code == "4s":
        return _MAGIC[rng.integers(0, len(_MAGIC))]
    if code == "f":
        return float(
            np.float32(
                rng.choice(_REAL) if rng.random() < 0.7 else rng.normal(0, 10 ** rng.uniform(-2, 5))
            )
        )
    bits = {"B": 8, "h": 16, "i": 32}[code]
    value = int(rng.choice(_WHOLE)) if rng.random() < 0.7 else int(rng.integers(-(2**31), 2**31))
    value &= 2**bits - 1
    return value if code == "B" or value < 2 ** (bits - 1) else value - 2**bits
