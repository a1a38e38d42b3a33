"""A model as a sequence of chunks, and back: sizes checked first, every chunk by CRC-32, the whole by SHA-256. Never pickle."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from federated import errors
from federated.tensor_files import MAX_BYTES, TensorFile, TensorFileWriter
from federated.weights import DTYPES, Digest, NamedArrays, TensorSpec, check_declaration

CHUNK_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A piece of one tensor. `crc32` covers the position too: a chunk in the wrong place is as bad as a wrong one."""

    tensor: int  # index in the canonical order
    offset: int  # bytes from the start of that tensor
    data: bytes
    crc32: int


def checksum(tensor: int, offset: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack("<IQ", tensor, offset)))


def chunks(file: TensorFile, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Yields the chunks of a file tensor by tensor; holds one of them at a time."""
    for index, spec in enumerate(file.specs):
        for offset in range(0, spec.nbytes, chunk_bytes):
            data = file.read_bytes(spec, offset, min(chunk_bytes, spec.nbytes - offset))
            yield Chunk(index, offset, data, checksum(index, offset, data))


def _in_order(specs: Sequence[TensorSpec], received: Iterable[Chunk], sink: Callable[[bytes], None], *, only_finite: bool) -> None:
    """Hands the bytes of `received` to `sink`, in canonical order and without a gap, or raises."""
    todo = [(index, spec) for index, spec in enumerate(specs) if spec.nbytes]
    position, offset = 0, 0
    for chunk in received:
        if position == len(todo):
            raise errors.DamagedTransfer("more data arrived than the declared tensors hold; send the model again")
        index, spec = todo[position]
        width = DTYPES[spec.dtype].itemsize
        if (chunk.tensor, chunk.offset) != (index, offset):
            raise errors.DamagedTransfer(
                f"{spec.name}: expected tensor {index} from byte {offset}, received tensor {chunk.tensor} from byte {chunk.offset}; send the model again"
            )
        if not chunk.data or len(chunk.data) % width or offset + len(chunk.data) > spec.nbytes:
            raise errors.DamagedTransfer(
                f"{spec.name}: a chunk of {len(chunk.data)} bytes at byte {offset} does not fit {spec}; send the model again"
            )
        if checksum(index, offset, chunk.data) != chunk.crc32:
            raise errors.DamagedTransfer(f"{spec.name}: checksum of the chunk at byte {offset} does not match; send the model again")
        if only_finite and not np.isfinite(np.frombuffer(chunk.data, dtype=DTYPES[spec.dtype])).all():
            raise errors.UpdateRefused(
                f"{spec.name} holds a value that is not finite; look at the site's training loss and lower its learning rate"
            )
        sink(chunk.data)
        offset += len(chunk.data)
        if offset == spec.nbytes:
            position, offset = position + 1, 0
    if position != len(todo):
        raise errors.DamagedTransfer(f"the transfer ended in {todo[position][1].name} at byte {offset}; send the model again")


def _check_digest(declared: str, computed: str) -> None:
    if declared != computed:
        raise errors.DamagedTransfer(f"SHA-256 of the model is {computed[:12]}…, {declared[:12]}… was declared; send the model again")


def receive_to_file(
    specs: Sequence[TensorSpec], sha256: str, received: Iterable[Chunk], path, *, metadata: dict[str, str], only_finite: bool = True
) -> None:
    """Writes the received model to `path` and syncs it; memory is one chunk, whatever the model.

    Raises:
      IncompatibleWeights, DamagedTransfer, UpdateRefused: and `path` is then not to be used.
    """
    check_declaration(specs, max_bytes=MAX_BYTES)
    with TensorFileWriter(path, specs, metadata) as writer:
        _in_order(specs, received, writer.write, only_finite=only_finite)
        _check_digest(sha256, writer.finish())


def receive_to_memory(specs: Sequence[TensorSpec], sha256: str, received: Iterable[Chunk], *, max_bytes: int = MAX_BYTES) -> NamedArrays:
    """Returns the received model as arrays over one buffer, allocated after its declared size was checked.

    Raises:
      IncompatibleWeights, DamagedTransfer.
    """
    check_declaration(specs, max_bytes=max_bytes)
    buffer = bytearray(sum(spec.nbytes for spec in specs))
    computed, filled = Digest(specs), 0

    def keep(data: bytes) -> None:
        nonlocal filled
        computed.update(data)
        buffer[filled : filled + len(data)] = data
        filled += len(data)

    _in_order(specs, received, keep, only_finite=False)
    _check_digest(sha256, computed.hex())
    arrays, start = {}, 0
    for spec in specs:
        arrays[spec.name] = np.frombuffer(buffer, dtype=DTYPES[spec.dtype], count=spec.size, offset=start).reshape(spec.shape)
        start += spec.nbytes
    return arrays
