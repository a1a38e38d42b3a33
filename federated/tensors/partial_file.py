"""A model that arrives in pieces, in any order and over any number of attempts: the file itself
says which pieces are there.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping

from federated import errors
from federated.tensors.codec import Chunk, decoded
from federated.tensors.tensor_files import file_header
from federated.tensors.weights import CHUNK_BYTES, Manifest
from runkit import atomic, private, writeback


class PartialModel:
    """A safetensors file in the making. Several threads may fill it at once: each writes only what
    belongs there.

    A piece counts as there when its bytes have the SHA-256 of the manifest, so a file that a kill,
    a cut or a full disk left behind goes on where it is, and nothing besides the file needs to be
    remembered.

    Args:
      path: the file; one that began with another header is written over.
      manifest: what is to arrive.
      metadata: of the file.
      durable: the model is to be synced by `finish`; each piece is then on its way to the disk
          while the next ones arrive.
      look: told (index, bytes) of every piece that is there, before it counts; of one that came
          twice perhaps twice.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        manifest: Manifest,
        metadata: Mapping[str, str],
        *,
        durable: bool = False,
        look: Callable[[int, bytes], None] = lambda index, data: None,
    ):
        self.path, self.manifest = pathlib.Path(path), manifest
        self._durable, self._look, self._lock, self._there = (
            durable,
            look,
            threading.Lock(),
            set[int](),
        )
        header = file_header(manifest.specs, metadata)
        self._start = len(header)
        self._file = private.opener(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            if os.pread(self._file, len(header), 0) == header:
                self._recognise()
            else:
                # What another model left is written over: the memory and the disk that it has need
                # not be given back and asked for again.
                with self._naming():
                    _write(self._file, header, 0)
                os.ftruncate(
                    self._file, min(os.fstat(self._file).st_size, self._start + manifest.nbytes)
                )
        except BaseException:
            self.close()
            raise

    def _recognise(self) -> None:
        held = max(0, os.fstat(self._file).st_size - self._start)
        for index in range(min(self.manifest.num_chunks, -(-held // CHUNK_BYTES))):
            data = os.pread(
                self._file, self.manifest.size_of(index), self._start + index * CHUNK_BYTES
            )
            if self.manifest.is_chunk(index, data):
                self._look(index, data)
                self._there.add(index)

    @property
    def num_there(self) -> int:
        """Returns how many pieces are there."""
        with self._lock:
            return len(self._there)

    def missing(self) -> list[int]:
        """Returns the numbers of the pieces that are not there, in order."""
        with self._lock:
            return [index for index in range(self.manifest.num_chunks) if index not in self._there]

    def put(self, chunk: Chunk) -> None:
        """Takes a piece. One that is there already does no harm. Raises DamagedTransfer, OSError."""
        index = chunk.index
        if not 0 <= index < self.manifest.num_chunks:
            raise errors.DamagedTransfer(
                f"chunk {index} came, the model has {self.manifest.num_chunks}; send the model again"
            )
        data = decoded(chunk, self.manifest.size_of(index))
        if not self.manifest.is_chunk(index, data):
            raise errors.DamagedTransfer(
                f"checksum of chunk {index} does not match; send the model again"
            )
        at = self._start + index * CHUNK_BYTES
        with self._naming():
            _write(self._file, data, at)
        if self._durable:
            writeback.begin(self._file, at, len(data))
        self._look(index, data)  # before it counts: who finds the model whole finds it looked at
        with self._lock:
            self._there.add(index)

    def finish(self) -> None:
        """Syncs the whole model to disk. Raises DamagedTransfer while pieces are missing or another
        transfer took the file away.
        """
        missing = self.missing()
        if missing:
            raise errors.DamagedTransfer(
                f"the transfer ended with {len(missing)} of {self.manifest.num_chunks} chunks missing; send these"
            )
        os.ftruncate(self._file, self._start + self.manifest.nbytes)
        os.fsync(self._file)
        try:
            same = os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            same = False
        if not same:
            raise errors.DamagedTransfer(
                "another transfer of the site came between; send the model again"
            )

    def _naming(self) -> contextlib.AbstractContextManager[None]:
        return atomic.naming(self.path, self._start + self.manifest.nbytes)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> PartialModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ranges(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Returns sorted numbers as (first, count) of each unbroken stretch."""
    result: list[tuple[int, int]] = []
    for index in indices:
        if result and index == sum(result[-1]):
            result[-1] = (result[-1][0], result[-1][1] + 1)
        else:
            result.append((index, 1))
    return result


def _write(file: int, data: bytes, at: int) -> None:
    written = os.pwrite(file, data, at)
    while written < len(data):  # a disk that fills takes a part first
        written += os.pwrite(file, data[written:], at + written)
