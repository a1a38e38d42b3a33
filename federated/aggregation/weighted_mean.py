"""The weighted mean of updates, in one order and one precision: the same bits for any arrival
order, chunk size or restart.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Protocol

import numpy as np

from federated.tensors.weights import (
    CHUNK_BYTES,
    NamedArrays,
    TensorSpec,
    check_same,
    dtype_runs,
    specs_of,
)

SLAB_BYTES = (
    2**18
)  # averaged at a time, whatever the tensors: what is worked on stays in a processor's cache
_WORKERS, _AHEAD = (
    2,
    4,
)  # chunks that are averaged at the same time, and that wait to be written at most


def mean_of(slabs: Iterable[np.ndarray], num_examples: Sequence[int]) -> np.ndarray:
    """Returns sum(n_i * x_i) / sum(n_i), accumulated in float64 in the order given, in the dtype of
    the inputs.

    One slab is asked for after the other, so a generator keeps one of them in memory. An integer n
    times a float32 is exact in float64 while n < 2**29, so the mean of one site is that site, bit
    for bit.
    """
    total = term = dtype = None
    for slab, examples in zip(slabs, num_examples, strict=True):
        if total is None:
            total, term, dtype = np.empty(slab.shape), np.empty(slab.shape), slab.dtype
            np.multiply(slab, float(examples), out=total, dtype=np.float64)
        else:
            total += np.multiply(slab, float(examples), out=term, dtype=np.float64)
    return np.divide(total, float(sum(num_examples)), out=total).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Contribution:
    """A site's arrays in memory and the number of examples that weights them."""

    site: str
    arrays: Mapping[str, np.ndarray]
    num_examples: int


def weighted_mean(contributions: Iterable[Contribution]) -> NamedArrays:
    """Returns the mean of the contributions weighted by `num_examples`, summed in the order of site
    names.

    Raises:
      ValueError: for no contribution, or one without examples.
      IncompatibleWeights: where two contributions differ in a name, shape or dtype.
    """
    ordered = sorted(contributions, key=lambda c: c.site)
    _check_weights([(c.site, c.num_examples) for c in ordered])
    for other in ordered[1:]:
        check_same(
            specs_of(ordered[0].arrays),
            specs_of(other.arrays),
            what=f"update of site {other.site!r}",
        )
    return {
        name: mean_of((c.arrays[name] for c in ordered), [c.num_examples for c in ordered])
        for name in ordered[0].arrays
    }


class Source(Protocol):
    """Anything that hands out a model's bytes piece by piece, e.g. `tensor_files.TensorFile`.

    Several threads may ask, each for the pieces of one chunk in order.
    """

    specs: tuple[TensorSpec, ...]

    def read_range(self, start: int, size: int) -> bytes: ...


class Sink(Protocol):
    """Takes a model's bytes in canonical order, e.g. `tensor_files.TensorFileWriter`."""

    def write(self, data: bytes | memoryview) -> None: ...


def weighted_mean_of_sources(
    sources: Mapping[str, tuple[Source, int]],
    sink: Sink,
    *,
    finish: Callable[[np.ndarray], np.ndarray] = lambda slab: slab,
) -> None:
    """Averages spooled updates into `sink`, slab by slab: memory grows with neither model nor
    number of sites.

    Args:
      sources: site name to (source, num_examples); equal specs are checked.
      sink: takes the mean.
      finish: what becomes of each piece of it, e.g. rounding.
    Raises:
      ValueError, IncompatibleWeights: as `weighted_mean`.
    """
    ordered = [(site, *sources[site]) for site in sorted(sources)]
    _check_weights([(site, examples) for site, _, examples in ordered])
    first = ordered[0][1]
    for site, source, _ in ordered[1:]:
        check_same(first.specs, source.specs, what=f"update of site {site!r}")
    weights = [examples for _, _, examples in ordered]

    def averaged(stretches: list[tuple[np.dtype, int, int]]) -> list[np.ndarray]:
        means = []
        for dtype, begin, end in stretches:
            means.append(np.empty((end - begin) // dtype.itemsize, dtype))
            for start in range(begin, end, SLAB_BYTES):
                size = min(SLAB_BYTES, end - start)
                mean = mean_of(
                    (
                        np.frombuffer(source.read_range(start, size), dtype=dtype)
                        for _, source, _ in ordered
                    ),
                    weights,
                )
                at = (start - begin) // dtype.itemsize
                means[-1][at : at + len(mean)] = mean
        return means

    with futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="average") as pool:
        pending: collections.deque[futures.Future] = collections.deque()

        def write_next() -> None:
            for mean in pending.popleft().result():
                sink.write(memoryview(finish(mean)).cast("B"))

        for stretches in _chunks(first.specs):
            pending.append(pool.submit(averaged, stretches))
            if len(pending) == _AHEAD:
                write_next()
        while pending:
            write_next()


def _chunks(specs: Sequence[TensorSpec]) -> Iterator[list[tuple[np.dtype, int, int]]]:
    """Yields each chunk of a model as its stretches of one dtype, (dtype, first byte, end)."""
    runs = [(dtype, begin, begin + nbytes) for dtype, begin, nbytes in dtype_runs(specs) if nbytes]
    for start in range(0, runs[-1][2] if runs else 0, CHUNK_BYTES):
        cut = [
            (dtype, max(start, begin), min(start + CHUNK_BYTES, end)) for dtype, begin, end in runs
        ]
        yield [stretch for stretch in cut if stretch[1] < stretch[2]]


def _check_weights(weights: Sequence[tuple[str, int]]) -> None:
    if not weights:
        raise ValueError("no update to average; a round closes with at least one")
    for site, examples in weights:
        if examples <= 0:
            raise ValueError(f"site {site!r} has num_examples {examples}; expected at least 1")
