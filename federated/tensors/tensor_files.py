"""Weights on disk: safetensors files, read and written piece by piece.

The safetensors package reads and writes whole models, but the server's memory must not grow with
the size of a model. The format is a length (uint64), a JSON header and the bytes of all tensors
without a gap; this module and the package can read each other's files.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import struct
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from federated import errors
from federated.tensors.weights import (
    CHUNK_BYTES,
    DTYPES,
    Declaration,
    Digest,
    NamedArrays,
    TensorManifest,
    TensorSpec,
    canonical,
    little_endian_bytes,
    specs_of,
)
from runkit import atomic, private, writeback

_json_of = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
MAX_HEADER = 32 * 2**20  # bytes; a model of 100,000 tensors needs about ten million
_AHEAD = 8 * 2**20  # bytes written before the system is asked to flush them to disk


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What a header says.

    Attributes:
      header_end: where the bytes of the tensors begin.
      start: name to (where in the file the tensor begins, its bytes).
      places: where each tensor begins among all bytes in canonical order, and where the last ends.
      in_order: whether the file holds them in that order without a gap.
    """

    metadata: Mapping[str, str]
    specs: Declaration
    header_end: int
    start: Mapping[str, tuple[int, int]]
    places: Sequence[int]
    in_order: bool

    def check(self, size: int) -> None:
        """Raises ValueError unless a file of `size` bytes holds all tensors."""
        for spec in self.specs:
            begin, nbytes = self.start[spec.name]
            if nbytes != spec.nbytes or begin < self.header_end or begin + nbytes > size:
                raise ValueError(
                    f"{spec.name} should take {spec.nbytes} bytes, "
                    f"the file has {max(0, size - begin)} for it"
                )


def _layout_of(header: bytes) -> _Layout:
    entries, header_end = json.loads(header.decode("utf-8")), 8 + len(header)
    metadata = {str(k): str(v) for k, v in entries.pop("__metadata__", {}).items()}
    specs, start = [], {}
    for name, entry in entries.items():
        specs.append(TensorSpec(name, entry["dtype"], tuple(map(int, entry["shape"]))))
        begin, end = entry["data_offsets"]
        start[name] = (header_end + int(begin), int(end) - int(begin))
    declared = Declaration(canonical(specs))
    places = list(itertools.accumulate((spec.nbytes for spec in declared), initial=0))
    first = start[declared[0].name][0]
    in_order = all(
        start[spec.name][0] == first + place for spec, place in zip(declared, places, strict=False)
    )
    return _Layout(metadata, declared, header_end, start, places, in_order)


# All files of a federation have the same few headers. A large one is not kept in memory.
_remembered = functools.lru_cache(maxsize=8)(_layout_of)
_SMALL_HEADER = 2**18


class TensorFile:
    """A safetensors file open for reading; only its header is in memory. A context manager.

    Attributes:
      specs: the tensors.
      nbytes: size of all tensors in bytes.
      metadata: the header's strings.
    Raises:
      ValueError: naming the file, unless it is a complete safetensors file of floating-point
        tensors. Its content is corrupt, so a caller may delete it.
      OSError: if the system cannot open or read the file (no such file, too many open files, no
        permission, a failing disk). This implies nothing about the content, so a caller must not
        delete a file because of it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._stream = open(self.path, "rb")  # noqa: SIM115 - closed by close()
        try:
            self._read_header()
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
            struct.error,
            errors.IncompatibleWeights,
        ) as error:
            self._stream.close()
            raise ValueError(
                f"{self.path}: not a whole safetensors file of weights ({error}); "
                "restore it or make it again"
            ) from error
        except BaseException as error:
            self._stream.close()
            if isinstance(error, OSError):
                atomic.naming(self.path).name(error)
            raise

    def _read_header(self) -> None:
        size = os.fstat(self._stream.fileno()).st_size
        (length,) = struct.unpack("<Q", self._stream.read(8))
        if length > min(MAX_HEADER, size):
            raise ValueError(f"its header claims {length} bytes")
        header = self._stream.read(length)
        layout = (_remembered if length <= _SMALL_HEADER else _layout_of)(header)
        layout.check(size)
        self.metadata: dict[str, str] = dict(layout.metadata)
        self.specs, self.nbytes = layout.specs, layout.specs.nbytes
        self._start, self._places = layout.start, layout.places
        self._in_order, self._first = layout.in_order, layout.start[layout.specs[0].name][0]

    def read_bytes(self, spec: TensorSpec, offset: int, size: int) -> bytes:
        """Returns `size` bytes of a tensor, beginning at its byte `offset`."""
        begin, _ = self._start[spec.name]
        data = self._pread(size, begin + offset)
        if len(data) != size:
            raise ValueError(
                f"{self.path}: {spec.name} ends early; restore the file or make it again"
            )
        return data

    def read_range(self, start: int, size: int) -> bytes:
        """Returns `size` bytes of all tensors in canonical order, beginning at byte `start`."""
        if self._in_order:
            data = self._pread(size, self._first + start)
            if len(data) != size:
                raise ValueError(f"{self.path}: ends early; restore the file or make it again")
            return data
        pieces, number = [], bisect.bisect_right(self._places, start) - 1
        while size:
            spec, offset = self.specs[number], start - self._places[number]
            count = min(size, spec.nbytes - offset)
            pieces.append(self.read_bytes(spec, offset, count))
            start, size, number = start + count, size - count, number + 1
        return b"".join(pieces)

    def _pread(self, size: int, place: int) -> bytes:
        try:
            # pread, since several threads may read one file
            return os.pread(self._stream.fileno(), size, place)
        except OSError as error:
            atomic.naming(self.path).name(error)
            raise

    def read(self) -> NamedArrays:
        """Returns all tensors, as views of one large array.

        The system uses far fewer, larger pages for one large allocation than for many small ones.
        """
        memory, arrays = np.empty(self.nbytes, dtype=np.uint8), {}
        for spec, place in zip(self.specs, self._places, strict=False):
            part = memory[place : place + spec.nbytes]
            self._fill(part, spec)
            arrays[spec.name] = part.view(DTYPES[spec.dtype]).reshape(spec.shape)
        return arrays

    def _fill(self, part: np.ndarray, spec: TensorSpec) -> None:
        begin, filled = self._start[spec.name][0], 0
        while filled < len(part):  # one call reads at most 2 GiB
            with atomic.naming(self.path):
                count = os.preadv(self._stream.fileno(), [part[filled:].data], begin + filled)
            if not count:
                raise ValueError(
                    f"{self.path}: {spec.name} ends early; restore the file or make it again"
                )
            filled += count

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TensorSelection:
    """Some tensors of an open file, read as if the file had no others.

    Attributes:
      specs: these tensors in canonical order.
    Raises:
      ValueError: if the file does not have one of the tensors.
    """

    def __init__(self, file: TensorFile, names: Collection[str]):
        self.specs = tuple(spec for spec in file.specs if spec.name in names)
        if len(self.specs) != len(names):
            missing = sorted(set(names) - {spec.name for spec in self.specs})
            raise ValueError(f"{file.path}: has no tensor {missing[0]}; restore it")
        self._file = file
        self._places = list(itertools.accumulate((spec.nbytes for spec in self.specs), initial=0))

    @property
    def nbytes(self) -> int:
        return self._places[-1]

    def read_range(self, start: int, size: int) -> bytes:
        """Returns `size` bytes of these tensors in canonical order, beginning at byte `start`."""
        pieces, number = [], bisect.bisect_right(self._places, start) - 1
        while size:
            spec, offset = self.specs[number], start - self._places[number]
            count = min(size, spec.nbytes - offset)
            if count:
                pieces.append(self._file.read_bytes(spec, offset, count))
            start, size, number = start + count, size - count, number + 1
        return b"".join(pieces)


def selected(file: TensorFile, names: Collection[str]) -> TensorFile | TensorSelection:
    """Returns the file itself if `names` are all its tensors, otherwise the selection."""
    return file if len(names) == len(file.specs) else TensorSelection(file, names)


def file_header(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Returns the bytes that precede the tensors in a file; these follow in canonical order."""
    header: dict = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = _json_of(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


class TensorFileWriter:
    """Writes a safetensors file from the bytes of its tensors in canonical order.

    `write` takes pieces of any size. The file is written under `path` itself: give a temporary name
    and rename the file after `finish`. A context manager.
    """

    def __init__(
        self, path: str | os.PathLike, specs: Sequence[TensorSpec], metadata: Mapping[str, str]
    ):
        self.specs = Declaration(canonical(specs))
        self._expected, self._written = self.specs.nbytes, 0
        self._digest, self._begun = Digest(self.specs), 0
        # Closed by finish() or close().
        self._stream = open(path, "wb", opener=private.opener)  # noqa: SIM115
        self._stream.write(file_header(self.specs, metadata))

    def write(self, data: bytes | memoryview) -> None:
        self._written += len(data)
        if self._written > self._expected:
            raise ValueError(f"{self._written} bytes for tensors of {self._expected}")
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            # Small enough to be hashed and written while in the processor's cache.
            piece = view[start : start + CHUNK_BYTES]
            self._digest.update(piece)
            self._stream.write(piece)
        if self._written - self._begun >= _AHEAD:
            writeback.begin(self._stream.fileno(), self._begun, self._written - self._begun)
            self._begun = self._written

    def finish(self, *, sync: bool = True) -> TensorManifest:
        """Closes the file, by default synced to disk, and returns the manifest of its weights."""
        if self._written != self._expected:
            raise ValueError(f"{self._written} bytes for tensors of {self._expected}")
        self._stream.flush()
        if sync:
            os.fsync(self._stream.fileno())
        self._stream.close()
        return self._digest.manifest()

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> TensorFileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def save(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Writes `arrays` atomically and returns their digest."""
    return save_as(path, arrays, metadata).sha256


def save_as(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    *,
    sync: bool = True,
) -> TensorManifest:
    """Writes `arrays` atomically and returns their manifest.

    Args:
      sync: False if a power cut may corrupt the file, because the caller syncs it later and
          checks its digest.
    """
    with (
        atomic.naming(path, sum(array.nbytes for array in arrays.values())),
        atomic.replacing(path, sync=False, sync_folder=sync) as temporary,
        TensorFileWriter(temporary, specs_of(arrays), metadata or {}) as writer,
    ):
        for spec in writer.specs:
            writer.write(little_endian_bytes(arrays[spec.name]))
        return writer.finish(sync=sync)


def load(path: str | os.PathLike) -> tuple[NamedArrays, dict[str, str]]:
    """Returns (arrays, metadata). Raises ValueError and OSError as `TensorFile` does."""
    with TensorFile(path) as file:
        return file.read(), file.metadata


def file_manifest(file: TensorFile) -> TensorManifest:
    """Returns the manifest of an open file's weights, reading one chunk at a time."""
    result = Digest(file.specs)
    for start in range(0, file.nbytes, CHUNK_BYTES):
        result.update(file.read_range(start, min(CHUNK_BYTES, file.nbytes - start)))
    return result.manifest()


def file_digest(file: TensorFile) -> str:
    """Returns the digest of an open file's weights."""
    return file_manifest(file).sha256
