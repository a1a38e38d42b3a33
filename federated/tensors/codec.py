"""Encodings of a chunk's bytes for the transfer.

They are sent raw, deflated, as float16 if that is lossless, or as differences from the global model
that the receiver has (`sparse_chunks`); they are never pickled.

In every encoding the receiver restores the same bytes and checks their SHA-256. With `half`, both
ends first round a model to float16 values (`rounded`), report the rounding error, and compute the
digest of the rounded model; its chunks then take half the bytes.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from federated import errors
from federated.tensors import sparse_chunks
from federated.tensors.tensor_files import TensorFile, TensorSelection
from federated.tensors.weights import CHUNK_BYTES, MASKED, NamedArrays

RAW, DEFLATED, HALF, SPARSE = 0, 1, 2, 3  # an encoding's number on the wire
TRANSPORTS = ("raw", "deflate", "half")  # the operator's choices
ENCODINGS = {  # encodings that a transport may use; for an update also SPARSE, if offered
    "raw": frozenset({RAW}),
    "deflate": frozenset({RAW, DEFLATED}),
    "half": frozenset({RAW, HALF}),
}
_FLOAT32, _FLOAT16 = np.dtype("<f4"), np.dtype("<f2")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Chunk number `index` of a model's bytes in canonical order, encoded for the transfer."""

    index: int
    data: bytes | memoryview
    encoding: int = RAW


def chunks(
    file: TensorFile,
    wanted: Iterable[int] | None = None,
    *,
    transport: str = "raw",
    before: TensorFile | TensorSelection | None = None,
) -> Iterator[Chunk]:
    """Yields the wanted chunks of a file, by default all; only one is in memory at a time.

    Args:
      before: the global model that the file was trained from, with the same tensors, if the
        receiver has it: of chunks that do not differ from it everywhere, only the values that
        differ are then sent.
    """
    count = -(-file.nbytes // CHUNK_BYTES)
    float32 = range(0)
    if transport == "half":
        float32 = range(
            sum(s.nbytes for s in file.specs if s.dtype in (MASKED, "F64")),
            sum(s.nbytes for s in file.specs if s.dtype != "F16"),
        )
    for index in range(count) if wanted is None else wanted:
        start = index * CHUNK_BYTES
        data = file.read_range(start, min(CHUNK_BYTES, file.nbytes - start))
        plain = Chunk(index, data)
        if transport == "half" and start in float32 and start + len(data) <= float32.stop:
            plain = Chunk(index, *_halved(data))
        if before is not None:
            packed = sparse_chunks.packed(data, before.read_range(start, len(data)))
            if packed is not None and len(packed) < len(plain.data):
                yield Chunk(index, packed, SPARSE)
                continue
        yield Chunk(index, *_deflated(data)) if transport == "deflate" else plain


def decoded(
    chunk: Chunk, size: int, before: Callable[[], bytes] | None = None
) -> bytes | memoryview:
    """Returns the `size` bytes of a chunk.

    Never allocates more than that; for a SPARSE chunk, temporarily a few times as much.

    Args:
      before: returns the same bytes of the global model on which a SPARSE chunk is based.
    Raises:
      DamagedTransfer: if the chunk does not decode to `size` bytes.
    """
    if chunk.encoding == SPARSE and before is not None:
        return sparse_chunks.unpacked(chunk.data, before(), index=chunk.index)
    if chunk.encoding == RAW and len(chunk.data) == size:
        return chunk.data
    if chunk.encoding == HALF and len(chunk.data) * 2 == size and size % 4 == 0:
        return np.frombuffer(chunk.data, _FLOAT16).astype(_FLOAT32).tobytes()
    if chunk.encoding == DEFLATED:
        inflating = zlib.decompressobj()
        try:
            data = inflating.decompress(chunk.data, size)
        except zlib.error as error:
            raise errors.DamagedTransfer(
                f"chunk {chunk.index} cannot be inflated ({error}); send the model again"
            ) from error
        if len(data) == size and inflating.eof and not inflating.unused_data:
            return _unshuffled(data)
    raise errors.DamagedTransfer(
        f"chunk {chunk.index}: {len(chunk.data)} bytes in encoding {chunk.encoding} "
        f"are not its {size} bytes; send the model again"
    )


def _halved(data: bytes) -> tuple[bytes, int]:
    values = np.frombuffer(data, _FLOAT32)
    with np.errstate(over="ignore"):
        halves = values.astype(_FLOAT16)
    if halves.astype(_FLOAT32).tobytes() == data:
        return halves.tobytes(), HALF
    return data, RAW


def _deflated(data: bytes) -> tuple[bytes, int]:
    # Byte planes group the signs and exponents of neighbouring weights, which are alike.
    body = len(data) // 4 * 4
    planes = np.frombuffer(data, np.uint8, body).reshape(-1, 4).T.tobytes() + data[body:]
    packed = zlib.compress(planes, 1)
    return (packed, DEFLATED) if len(packed) < len(data) else (data, RAW)


def _unshuffled(planes: bytes) -> bytes:
    body = len(planes) // 4 * 4
    return np.frombuffer(planes, np.uint8, body).reshape(4, -1).T.tobytes() + planes[body:]


@dataclasses.dataclass
class RoundingError:
    """The error of rounding to float16, accumulated over all values added.

    Attributes:
      largest: largest absolute difference.
      squares, values: sum of the squared differences, and of the squared values.
    """

    largest: float = 0.0
    squares: float = 0.0
    values: float = 0.0

    def add(self, exact: np.ndarray, rounded_: np.ndarray) -> None:
        difference = exact.astype(np.float64) - rounded_
        if difference.size:
            self.largest = max(self.largest, float(np.abs(difference).max()))
            self.squares += float(np.vdot(difference, difference))
            self.values += float(np.vdot(exact.astype(np.float64), exact))

    @property
    def relative(self) -> float:
        """The Euclidean norm of the differences, divided by that of the values."""
        return (self.squares / self.values) ** 0.5 if self.values else 0.0


def rounded_values(values: np.ndarray, error: RoundingError) -> np.ndarray:
    """Returns float32 values rounded to the nearest float16, still in float32.

    Values too large for float16 are not changed.
    """
    with np.errstate(over="ignore"):
        result = values.astype(_FLOAT16).astype(_FLOAT32)
    result = np.where(np.isfinite(result), result, values)
    error.add(values, result)
    return result


def rounding(error: RoundingError) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that rounds float32 values and returns other dtypes unchanged."""
    return lambda values: rounded_values(values, error) if values.dtype == np.float32 else values


def rounded(
    arrays: Mapping[str, np.ndarray], *, keep: Mapping[str, np.ndarray] | None = None
) -> tuple[NamedArrays, RoundingError]:
    """Returns a model with its float32 values rounded to float16, and the rounding error.

    The dtype remains float32; other dtypes are unchanged.

    Args:
      keep: values that equal those of this model are not rounded, so a sparse update stays sparse.
    """
    error, result = RoundingError(), {}
    for name, array in arrays.items():
        values = rounding(error)(np.asarray(array))
        if keep and name in keep:
            values = np.where(array == keep[name], keep[name], values)
        result[name] = values
    return result, error
