"""The average of a round's spooled updates, each read once and checked to be what was received,
unless that is known already.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Callable, Collection, Mapping

import numpy as np

from federated.aggregation.weighted_mean import weighted_mean_of_sources
from federated.rounds.rounds import Update
from federated.tensors.tensor_files import TensorFile, TensorFileWriter
from federated.tensors.weights import CHUNK_BYTES, Manifest, TensorSpec
from runkit import atomic


class CorruptUpdate(Exception):
    """A spooled update is no longer what was received."""

    def __init__(self, update: Update):
        super().__init__(update)
        self.update = update


def average(
    updates: Mapping[pathlib.Path, Update],
    target: pathlib.Path,
    specs: tuple[TensorSpec, ...],
    metadata: dict[str, str],
    *,
    rounding: Callable[[np.ndarray], np.ndarray] | None = None,
    verified: Collection[pathlib.Path] = (),
) -> Manifest:
    """Writes the weighted mean of the updates to `target`, whole or not at all, and returns its
    manifest.

    Args:
      rounding: applied to each piece of the mean.
      verified: those of the files that are known to be what was received.
    Raises:
      CorruptUpdate: naming an update whose content the disk has changed or lost; `target` is then
          as it was.
      OSError: where the system cannot read an update or write the mean; the updates may be as good
          as ever.
    """
    with contextlib.ExitStack() as opened:
        sources = {
            update.site: (
                opened.enter_context(_PendingUpdate(path, update, verified=path in verified)),
                update.num_examples,
            )
            for path, update in updates.items()
        }
        with (
            atomic.replacing(target, sync=False) as temporary,
            TensorFileWriter(temporary, specs, metadata) as writer,
        ):
            weighted_mean_of_sources(
                sources, writer, **({} if rounding is None else {"finish": rounding})
            )
            for source, _ in sources.values():
                source.check()
            return writer.finish()


class _PendingUpdate:
    """A spooled update whose chunks are each read once, and of which it is told afterwards whether
    it was what had been received.
    """

    def __init__(self, path: pathlib.Path, update: Update, *, verified: bool):
        self._update, self._surely = update, verified
        try:
            self._file = TensorFile(path)
        except (ValueError, FileNotFoundError) as error:
            raise CorruptUpdate(update) from error
        self.specs = self._file.specs
        self._chunks: dict[int, hashlib._Hash] = {}

    def read_range(self, start: int, size: int) -> bytes:
        try:
            data = self._file.read_range(start, size)
        except ValueError as error:
            raise CorruptUpdate(self._update) from error
        if not self._surely:
            self._chunks.setdefault(start // CHUNK_BYTES, hashlib.sha256()).update(data)
        return data

    def check(self) -> None:
        if self._surely:
            return
        addresses = b"".join(self._chunks[index].digest() for index in sorted(self._chunks))
        if Manifest(self.specs, addresses).sha256 != self._update.sha256:
            raise CorruptUpdate(self._update)

    def __enter__(self) -> _PendingUpdate:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
