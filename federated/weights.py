"""Named arrays: what a model is to this package, how two of them are compared, and the digest that identifies one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from federated import errors

NamedArrays = dict[str, np.ndarray]

# Little-endian, as safetensors stores them. Floating point only: the mean of integers is not an integer.
DTYPES: dict[str, np.dtype] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_TENSORS = 100_000
MAX_NAME = 512
_LISTED = 30  # differences spelled out in one message; a model of another genotype may have hundreds


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One array without its values."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def canonical(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Returns `specs` in the one order used on the wire, on disk and in digests: widest dtype first, then by name.

    It is the order of the safetensors library, and keeps every array aligned in a file or buffer that starts aligned.
    """
    return tuple(sorted(specs, key=lambda s: (-DTYPES[s.dtype].itemsize, s.name)))


def specs_of(arrays: Mapping[str, np.ndarray]) -> tuple[TensorSpec, ...]:
    """Returns the specs of `arrays` in canonical order. Raises IncompatibleWeights for a dtype that cannot be averaged."""
    specs = []
    for name, array in arrays.items():
        code = _CODES.get(np.dtype(array.dtype).newbyteorder("<"))
        if code is None:
            raise errors.IncompatibleWeights(f"{name}: dtype {array.dtype} cannot be averaged; weights are {', '.join(map(str, _CODES))}")
        specs.append(TensorSpec(name, code, tuple(int(n) for n in array.shape)))
    return canonical(specs)


def check_declaration(specs: Sequence[TensorSpec], *, max_bytes: int) -> None:
    """Checks a declaration from outside before a byte is allocated for it.

    Raises:
      IncompatibleWeights: for too many tensors, malformed or repeated names, unknown dtypes, negative sizes, more than
        `max_bytes` in total, or another order than the canonical one.
    """
    if not 0 < len(specs) <= MAX_TENSORS:
        raise errors.IncompatibleWeights(f"{len(specs)} tensors declared; expected 1 to {MAX_TENSORS}")
    for spec in specs:
        if not spec.name or len(spec.name) > MAX_NAME or not spec.name.isprintable() or spec.name == "__metadata__":
            raise errors.IncompatibleWeights(f"tensor name {spec.name[:80]!r} is empty, reserved, too long or not printable")
        if spec.dtype not in DTYPES:
            raise errors.IncompatibleWeights(f"{spec.name}: dtype {spec.dtype[:20]!r} is not one of {', '.join(DTYPES)}")
        if len(spec.shape) > 32 or any(n < 0 for n in spec.shape):
            raise errors.IncompatibleWeights(f"{spec.name}: {list(spec.shape)[:40]} is not a shape")
    if len({spec.name for spec in specs}) != len(specs):
        raise errors.IncompatibleWeights("a tensor name is declared twice")
    total = sum(spec.nbytes for spec in specs)
    if total > max_bytes:
        raise errors.IncompatibleWeights(f"{total} bytes declared, at most {max_bytes} are allowed here")
    if tuple(specs) != canonical(specs):
        raise errors.IncompatibleWeights("the tensors are not declared in canonical order (widest dtype first, then by name)")


def differences(expected: Iterable[TensorSpec], received: Iterable[TensorSpec]) -> list[str]:
    """Returns one line for every name, shape or dtype in which `received` is not `expected`; empty when they agree."""
    wanted, got = {s.name: s for s in expected}, {s.name: s for s in received}
    lines = []
    for name in sorted(wanted.keys() | got.keys()):
        if name not in got:
            lines.append(f"{name}: missing, expected {wanted[name]}")
        elif name not in wanted:
            lines.append(f"{name}: {got[name]} is not part of the model")
        elif got[name] != wanted[name]:
            lines.append(f"{name}: expected {wanted[name]}, received {got[name]}")
    return lines


def check_same(expected: Iterable[TensorSpec], received: Iterable[TensorSpec], *, what: str) -> None:
    """Raises IncompatibleWeights listing what differs; `what` names the model, e.g. "update of site 'C1'"."""
    lines = differences(expected, received)
    if lines:
        listed = "; ".join(lines[:_LISTED]) + (f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else "")
        raise errors.IncompatibleWeights(
            f"{what} is not a model of this federation, {len(lines)} tensors differ: {listed}; build it from the genotype and options of the plan"
        )


class Digest:
    """SHA-256 over a model's declaration and its bytes in canonical order: the same for any chunk size, file or host."""

    def __init__(self, specs: Sequence[TensorSpec]):
        self._hash = hashlib.sha256(json.dumps([[s.name, s.dtype, list(s.shape)] for s in specs], separators=(",", ":")).encode("utf-8"))

    def update(self, data: bytes | memoryview) -> None:
        self._hash.update(data)

    def hex(self) -> str:
        return self._hash.hexdigest()


def little_endian_bytes(array: np.ndarray) -> memoryview:
    """Returns the array's values in C order as bytes; a view of it where it is contiguous already."""
    dtype = np.dtype(array.dtype).newbyteorder("<")
    return memoryview(np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8)).cast("B")


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the digest of arrays in memory, 64 hexadecimal digits."""
    specs = specs_of(arrays)
    result = Digest(specs)
    for spec in specs:
        result.update(little_endian_bytes(arrays[spec.name]))
    return result.hex()
