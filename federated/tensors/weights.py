"""Named arrays, which make up a model: their declaration, comparison and digest."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from federated import errors
from runkit import nested

NamedArrays = dict[str, np.ndarray]

MASKED = "U64"  # of a masked update only (`federated.secure_aggregation`), never of a model
# Little-endian, as safetensors stores them. Models have floating-point values only, since the mean
# of integers is not an integer.
DTYPES: dict[str, np.dtype] = {
    MASKED: np.dtype("<u8"),
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
}
_CODES = {dtype: code for code, dtype in DTYPES.items() if code != MASKED}
CHUNK_BYTES = 2**20  # a multiple of every item size, so that values are not split between chunks
ADDRESS_BYTES = 32
MAX_TENSORS = 100_000
MAX_NAME = 512
MAX_BYTES = 64 * 2**30  # of one model
_LISTED = 30  # differences listed in one message; another genotype may have hundreds


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The name, dtype and shape of an array."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @functools.cached_property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def canonical(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Returns `specs` in canonical order: widest dtype first, then by name.

    Messages, files and digests use this order. It is that of the safetensors library, and keeps
    every array aligned in a file or buffer whose beginning is aligned.
    """
    by_name = sorted(specs, key=operator.attrgetter("name"))
    # The codes sort as their widths do.
    return tuple(sorted(by_name, key=operator.attrgetter("dtype"), reverse=True))


def specs_of(arrays: Mapping[str, np.ndarray]) -> tuple[TensorSpec, ...]:
    """Returns the specs of `arrays` in canonical order.

    Raises:
      IncompatibleWeights: if a dtype cannot be averaged.
    """
    specs = []
    for name, array in arrays.items():
        code = _CODES.get(np.dtype(array.dtype).newbyteorder("<"))
        if code is None:
            raise errors.IncompatibleWeights(
                f"{name}: dtype {array.dtype} cannot be averaged; "
                f"weights are {', '.join(map(str, _CODES))}"
            )
        specs.append(TensorSpec(name, code, tuple(int(n) for n in array.shape)))
    return canonical(specs)


def check_declaration(specs: Sequence[TensorSpec]) -> int:
    """Checks a declaration from outside before any byte is allocated; returns its size in bytes.

    Raises:
      IncompatibleWeights: for too many tensors, malformed or repeated names, unknown dtypes,
        negative sizes, more than MAX_BYTES in total, or an order that is not canonical.
    """
    if not 0 < len(specs) <= MAX_TENSORS:
        raise errors.IncompatibleWeights(
            f"{len(specs)} tensors declared; expected 1 to {MAX_TENSORS}"
        )
    names, total, in_order, before = set[str](), 0, True, (-math.inf, "")
    for spec in specs:
        if (
            not spec.name
            or len(spec.name) > MAX_NAME
            or not spec.name.isprintable()
            or spec.name == "__metadata__"
        ):
            raise errors.IncompatibleWeights(
                f"tensor name {spec.name[:80]!r} is empty, reserved, too long or not printable"
            )
        if spec.dtype not in DTYPES:
            raise errors.IncompatibleWeights(
                f"{spec.name}: dtype {spec.dtype[:20]!r} is not one of {', '.join(_CODES.values())}"
            )
        if len(spec.shape) > 32 or min(spec.shape, default=0) < 0:
            raise errors.IncompatibleWeights(f"{spec.name}: {list(spec.shape)[:40]} is not a shape")
        place = (-DTYPES[spec.dtype].itemsize, spec.name)  # as `canonical` sorts
        total, in_order, before = total + spec.nbytes, in_order and before < place, place
        names.add(spec.name)
    if len(names) != len(specs):
        raise errors.IncompatibleWeights("a tensor name is declared twice")
    if total > MAX_BYTES:
        raise errors.IncompatibleWeights(
            f"{total} bytes declared, at most {MAX_BYTES} are allowed here"
        )
    if not in_order:
        raise errors.IncompatibleWeights(
            "the tensors are not declared in canonical order (widest dtype first, then by name)"
        )
    return total


class Declaration(tuple[TensorSpec, ...]):
    """The tensors of a model in canonical order.

    This is a checked value: code that receives one does not check it again.

    Attributes:
      nbytes: size of all tensors in bytes.
    Raises:
      IncompatibleWeights: as in `check_declaration`.
    """

    nbytes: int

    def __new__(cls, specs: Iterable[TensorSpec]) -> Declaration:
        if isinstance(specs, Declaration):
            return specs
        self = super().__new__(cls, specs)
        self.nbytes = check_declaration(self)
        return self

    @functools.cached_property
    def text(self) -> bytes:
        """The bytes that represent it in the digest of a model."""
        declared = [[s.name, s.dtype, list(s.shape)] for s in self]
        return json.dumps(declared, separators=(",", ":")).encode("utf-8")


def differences(
    expected: Iterable[TensorSpec], received: Iterable[TensorSpec]
) -> list[errors.Reason]:
    """Returns a reason for every tensor in which `received` differs from `expected`."""
    wanted, got = {s.name: s for s in expected}, {s.name: s for s in received}
    found = []
    for name, one, other in nested.differences(wanted, got):
        if other is None:
            found.append(errors.Reason(name, "missing", f"missing, expected {one}"))
        elif one is None:
            found.append(errors.Reason(name, "not_part", f"{other} is not part of the model"))
        else:
            found.append(errors.Reason(name, "differs", f"expected {one}, received {other}"))
    return found


def check_same(
    expected: Sequence[TensorSpec], received: Sequence[TensorSpec], *, what: str
) -> None:
    """Raises IncompatibleWeights listing the differences.

    Args:
      what: name of the received model, e.g. "update of site 'C1'".
    """
    if tuple(expected) == tuple(received):
        return
    reasons = differences(expected, received)
    if reasons:
        lines = [f"{reason.tensor}: {reason.text}" for reason in reasons[:_LISTED]]
        if len(reasons) > _LISTED:
            lines.append(f"and {len(reasons) - _LISTED} more")
        raise errors.IncompatibleWeights(
            f"{what} is not a model of this federation, {len(reasons)} tensors differ: "
            f"{'; '.join(lines)}; build it from the genotype and options of the plan",
            reasons=reasons,
        )


class Digest:
    """Computes the digest of a model from its bytes in canonical order.

    The bytes are cut into chunks of `CHUNK_BYTES`, and each chunk has its own SHA-256. The model's
    digest is the SHA-256 of its specs and of these checksums, so it does not depend on the file,
    the host or the sizes of the pieces passed in, and a receiver can check each chunk by itself.
    """

    def __init__(self, specs: Sequence[TensorSpec]):
        self._specs = specs
        self._done: list[bytes] = []
        self._open, self._filled = hashlib.sha256(), 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while len(view):
            piece = view[: CHUNK_BYTES - self._filled]
            self._open.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == CHUNK_BYTES:
                self._close_chunk()

    def _close_chunk(self) -> None:
        self._done.append(self._open.digest())
        self._open, self._filled = hashlib.sha256(), 0

    def manifest(self) -> TensorManifest:
        """Returns the manifest of the bytes passed in so far."""
        last = [self._open.digest()] if self._filled else []
        return TensorManifest(Declaration(self._specs), b"".join([*self._done, *last]))

    def hex(self) -> str:
        return self.manifest().sha256


@dataclasses.dataclass(frozen=True)
class TensorManifest:
    """The content of a model: its declaration and the concatenated SHA-256 of its chunks.

    This is a checked value: every manifest has one checksum per chunk, so code that receives one
    does not check it again.

    Attributes:
      nbytes, num_chunks: size of all tensors in bytes, and number of their chunks.
    Raises:
      DamagedTransfer: if the numbers of checksums and chunks differ.
    """

    specs: Declaration
    addresses: bytes
    nbytes: int = dataclasses.field(init=False, repr=False, compare=False)
    num_chunks: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", self.specs.nbytes)
        object.__setattr__(self, "num_chunks", -(-self.nbytes // CHUNK_BYTES))
        if len(self.addresses) != self.num_chunks * ADDRESS_BYTES:
            raise errors.DamagedTransfer(
                f"{len(self.addresses)} bytes of checksums for {self.num_chunks} chunks; "
                f"expected {ADDRESS_BYTES} each, send the model again"
            )

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.specs.text + b"\n" + self.addresses).hexdigest()

    def size_of(self, index: int) -> int:
        """Returns the number of bytes of a chunk; only the last may be shorter."""
        return min(CHUNK_BYTES, self.nbytes - index * CHUNK_BYTES)

    def is_chunk(self, index: int, data: bytes | memoryview) -> bool:
        """Returns whether `data` is chunk number `index`."""
        at = index * ADDRESS_BYTES
        return (
            0 <= index < self.num_chunks
            and hashlib.sha256(data).digest() == self.addresses[at : at + ADDRESS_BYTES]
        )


def dtype_runs(specs: Iterable[TensorSpec]) -> list[tuple[np.dtype, int, int]]:
    """Returns (dtype, first byte, number of bytes) of each run of one dtype, in canonical order."""
    runs: list[tuple[np.dtype, int, int]] = []
    start = 0
    for code, group in itertools.groupby(specs, key=operator.attrgetter("dtype")):
        nbytes = sum(map(operator.attrgetter("nbytes"), group))
        runs.append((DTYPES[code], start, nbytes))
        start += nbytes
    return runs


def stretches(
    runs: Iterable[tuple[np.dtype, int, int]], start: int, stop: int
) -> Iterator[tuple[np.dtype, int, int]]:
    """Yields (dtype, first byte, end) of the part of each of `dtype_runs` between two bytes."""
    for dtype, first, nbytes in runs:
        begin, end = max(start, first), min(stop, first + nbytes)
        if begin < end:
            yield dtype, begin, end


def little_endian_bytes(array: np.ndarray) -> memoryview:
    """Returns the array's values in C order as bytes, without a copy if it is contiguous."""
    dtype = np.dtype(array.dtype).newbyteorder("<")
    return np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8).data.cast("B")
