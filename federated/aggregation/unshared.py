"""Completes an aggregated model with the arrays that sites do not share, from the last model."""

from __future__ import annotations

from collections.abc import Collection

from federated.aggregation.slabs import Sink
from federated.tensors.tensor_files import TensorFile
from federated.tensors.weights import CHUNK_BYTES, TensorSpec


class CompletingSink:
    """Receives the bytes of the shared tensors in canonical order; writes those of all tensors.

    Only one chunk at a time is in memory.

    Args:
      sink: receives the whole model.
      model: provides the tensors, and the bytes of those that are not shared.
      shared: names of the tensors whose bytes are passed to `write`.
    """

    def __init__(self, sink: Sink, model: TensorFile, shared: Collection[str]):
        self._sink, self._model, self._shared = sink, model, shared
        self._specs = iter(model.specs)
        self._left = 0  # bytes of the open shared tensor that have not come yet

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while len(view):
            if not self._left:
                self._next_shared()
            piece = view[: self._left]
            self._sink.write(piece)
            view, self._left = view[len(piece) :], self._left - len(piece)

    def finish(self) -> None:
        """Writes the tensors after the last shared one."""
        for spec in self._specs:
            self._copy(spec)

    def _next_shared(self) -> None:
        """Goes on to the next shared tensor with a value."""
        for spec in self._specs:
            if spec.name not in self._shared:
                self._copy(spec)
            elif spec.nbytes:
                self._left = spec.nbytes
                return
        raise ValueError("more bytes came than the shared tensors have; check the updates' tensors")

    def _copy(self, spec: TensorSpec) -> None:
        for start in range(0, spec.nbytes, CHUNK_BYTES):
            self._sink.write(
                self._model.read_bytes(spec, start, min(CHUNK_BYTES, spec.nbytes - start))
            )
