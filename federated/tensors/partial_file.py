"""A model that arrives in chunks, in any order and over any number of attempts."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from federated import errors
from federated.tensors.codec import Chunk, decoded
from federated.tensors.tensor_files import TensorFile, TensorSelection, file_header
from federated.tensors.weights import CHUNK_BYTES, TensorManifest
from runkit import atomic, private, writeback

Kept = TypeVar("Kept")


class PartialModel:
    """A safetensors file that is still being filled. Several threads may fill it at once.

    A chunk counts as present if its bytes have the SHA-256 in the manifest. So a file that a kill,
    a lost connection or a full disk left behind can be completed without any other record.

    Args:
      path: the file; one with another header is overwritten.
      manifest: manifest of the model that will arrive.
      metadata: metadata of the file.
      durable: whether the model will be synced by `finish`; each chunk is then flushed to the disk
          while the next ones arrive.
      before: the global model on which sparse chunks are based, with the same tensors; without it
        they are refused.
      look: called with (index, bytes) of every present chunk before it counts; perhaps twice for a
          chunk that arrives twice.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        manifest: TensorManifest,
        metadata: Mapping[str, str],
        *,
        durable: bool = False,
        before: TensorFile | TensorSelection | None = None,
        look: Callable[[int, bytes | memoryview], None] = lambda index, data: None,
    ):
        self.path, self.manifest = pathlib.Path(path), manifest
        self._durable, self._look, self._before = durable, look, before
        self._lock, self._there = threading.Lock(), set[int]()
        header = file_header(manifest.specs, metadata)
        self._start, self._size = len(header), len(header) + manifest.nbytes
        self._file = private.opener(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            if os.pread(self._file, len(header), 0) == header:
                self._recognise()
            else:
                # Another model's file is overwritten, which keeps its memory and disk allocated.
                self._write(header, 0)
                os.ftruncate(self._file, min(os.fstat(self._file).st_size, self._size))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                atomic.naming(self.path).name(error)
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
        """The number of chunks that are present."""
        with self._lock:
            return len(self._there)

    def missing(self) -> list[int]:
        """Returns the numbers of the missing chunks, in order."""
        with self._lock:
            return sorted(set(range(self.manifest.num_chunks)) - self._there)

    def put(self, chunk: Chunk) -> None:
        """Takes a chunk; a chunk that is already present does no harm.

        Raises:
          DamagedTransfer: if the chunk is not part of the model.
          OSError: if the chunk cannot be written.
        """
        index = chunk.index
        if not 0 <= index < self.manifest.num_chunks:
            raise errors.DamagedTransfer(
                f"chunk {index} came, the model has {self.manifest.num_chunks}; "
                "send the model again"
            )
        data = decoded(
            chunk,
            self.manifest.size_of(index),
            None if self._before is None else lambda: self._bytes_before(index),
        )
        if not self.manifest.is_chunk(index, data):
            raise errors.DamagedTransfer(
                f"checksum of chunk {index} does not match; send the model again"
            )
        at = self._start + index * CHUNK_BYTES
        self._write(data, at)
        if self._durable:
            writeback.begin(self._file, at, len(data))
        self._look(index, data)  # before the chunk counts: then all of a complete model was checked
        with self._lock:
            self._there.add(index)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        try:
            written = os.pwrite(self._file, data, at)
            while written < len(data):  # when a disk becomes full, a part is written first
                written += os.pwrite(self._file, data[written:], at + written)
        except OSError as error:
            atomic.naming(self.path, self._size).name(error)
            raise

    def _bytes_before(self, index: int) -> bytes:
        assert self._before is not None
        return self._before.read_range(index * CHUNK_BYTES, self.manifest.size_of(index))

    def finish(self) -> None:
        """Syncs the complete model to disk.

        Raises:
          DamagedTransfer: if chunks are missing.
          OSError: if the model cannot be synced; the file is removed.
        """
        with self._lock:
            missing = self.manifest.num_chunks - len(self._there)
        if missing:
            raise errors.DamagedTransfer(
                f"the transfer ended with {missing} of {self.manifest.num_chunks} chunks "
                "missing; send these"
            )
        try:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
        except OSError as error:
            # The system may now regard the data as written, and another sync would succeed without
            # them. So they are sent again.
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            atomic.naming(self.path).name(error)
            raise

    def hand_over(self, keep: Callable[[pathlib.Path], Kept]) -> Kept:
        """Gives the complete file to `keep`, and returns what that returns.

        The file first gets a name that no other transfer uses: until then another transfer of the
        site may put its own file in its place at any moment. If `keep` fails before it has moved
        the file, the file gets its name back, so that the next attempt need not send it again.

        Raises:
          DamagedTransfer: if another transfer has removed or replaced the file.
        """
        claimed = self.path.with_name(f"{atomic.PARTIAL}{secrets.token_hex(8)}{self.path.suffix}")
        try:
            os.replace(self.path, claimed)
            same = os.path.samestat(os.fstat(self._file), os.stat(claimed))
        except FileNotFoundError:
            same = False
        if not same:
            claimed.unlink(missing_ok=True)
            raise errors.DamagedTransfer(
                "another transfer of the site came between; send the model again"
            )
        try:
            return keep(claimed)
        except BaseException:
            with contextlib.suppress(OSError):  # it was moved, or the next attempt sends it again
                os.replace(claimed, self.path)
            raise

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> PartialModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
