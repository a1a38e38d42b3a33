"""Scalars for TensorBoard, written without TensorFlow or TensorBoard, which servers do not install.

An event file is a sequence of records: length (uint64), its checksum, the event, the event's
checksum. An event is a protobuf message; this module writes only the few fields of a scalar
(tensorboard/compat/proto/event.proto).
"""

from __future__ import annotations

import os
import pathlib
import struct
import threading
import time
from collections.abc import Callable, Mapping

from runkit import private


class ScalarEvents:
    """Appends scalars to a new file in `folder`, created at the first value. Thread-safe.

    Args:
      folder: a TensorBoard log folder; several files in it, e.g. from restarts, form one run.
      clock: returns seconds since the epoch.
    """

    def __init__(self, folder: str | os.PathLike, *, clock: Callable[[], float] = time.time):
        self._folder, self._clock = pathlib.Path(folder), clock
        self._path: pathlib.Path | None = None
        self._mutex = threading.Lock()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one step with a single call, so that they are not interleaved.

        A full disk leaves no part of them: readers stop at half a record.
        """
        if not values:
            return
        with self._mutex:
            records = b""
            if self._path is None:
                private.make(self._folder)
                self._path = (
                    self._folder / f"events.out.tfevents.{int(self._clock())}.{os.getpid()}"
                )
            for tag, value in values.items():
                summary = _bytes(
                    1, _bytes(1, tag.encode("utf-8")) + b"\x15" + struct.pack("<f", value)
                )
                records += _record(
                    _wall_time(self._clock()) + b"\x10" + _varint(step) + _bytes(5, summary)
                )
            with open(self._path, "ab", buffering=0, opener=private.opener) as stream:
                size = os.fstat(stream.fileno()).st_size
                if not size:
                    header = _wall_time(self._clock()) + _bytes(3, b"brain.Event:2")
                    records = _record(header) + records
                left = records
                try:
                    while left:
                        left = left[stream.write(left) :]
                except OSError:
                    os.ftruncate(stream.fileno(), size)
                    raise


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", _masked(length)) + event + struct.pack("<I", _masked(event))


def _wall_time(seconds: float) -> bytes:
    return b"\x09" + struct.pack("<d", seconds)  # field 1, a double


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _masked(data: bytes) -> int:
    """Returns the CRC-32C of `data`, rotated and offset as the format requires."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_entry(byte) for byte in range(256)]
