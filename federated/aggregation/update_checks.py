"""What an update must be to be averaged: the federation's tensors, finite, and no change out of all
proportion.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from federated import errors
from federated.errors import Reason
from federated.tensors.tensor_files import TensorFile
from federated.tensors.weights import CHUNK_BYTES, DTYPES, TensorSpec, dtype_runs

_LEAST, _MOST = 0.2, 2.0  # of what is usual, times the norm of the initial model
_SMALL_VALUE = 1e-3


class UpdateCheck:
    """Looks at the pieces of an update as they arrive, in any order; keeps a number a piece, and
    one a bad tensor.

    Args:
      specs: of the update, in canonical order.
      reference: the global model that the update changes, with the same tensors. None where only
          finiteness counts.
    """

    def __init__(self, specs: Sequence[TensorSpec], reference: TensorFile | None = None):
        self._specs, self._reference, self._runs = tuple(specs), reference, dtype_runs(specs)
        self._places = list(itertools.accumulate((spec.nbytes for spec in specs), initial=0))
        self._squares: dict[int, float] = {}
        self._not_finite: dict[int, Counter[int]] = {}  # piece -> tensor -> values

    def look(self, index: int, data: bytes) -> None:
        start, total, finite = index * CHUNK_BYTES, 0.0, True
        before = b"" if self._reference is None else self._reference.read_range(start, len(data))
        for dtype, run_start, run_bytes in self._runs:
            begin, end = (
                max(start, run_start) - start,
                min(start + len(data), run_start + run_bytes) - start,
            )
            if begin >= end:
                continue
            values = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, begin)
            squares = math.inf
            if before:
                # float32 is exact enough for a norm, and float16 squares would overflow.
                wide = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
                change = np.subtract(
                    values, np.frombuffer(before, dtype, len(values), begin), dtype=wide
                )
                squares = float(np.dot(change, change))
                total += squares
            # Squares that add up to a number have no value in them that is none; only else is each
            # looked at.
            finite &= math.isfinite(squares) or bool(np.isfinite(values).all())
        if not finite:
            self._not_finite[index] = self._count(start, data)
        self._squares[index] = total

    def _count(self, start: int, data: bytes) -> Counter[int]:
        """Returns the values that are not finite in each tensor that has a part in a piece."""
        counts, number = Counter[int](), bisect.bisect_right(self._places, start) - 1
        while number < len(self._specs) and self._places[number] < start + len(data):
            dtype = DTYPES[self._specs[number].dtype]
            begin, end = (
                max(self._places[number], start) - start,
                min(self._places[number + 1], start + len(data)) - start,
            )
            values = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, begin)
            counts[number] = int(values.size - np.isfinite(values).sum())
            number += 1
        return +counts

    @property
    def change(self) -> float:
        """Euclidean norm of the change that the update makes; infinite where it is beyond float32."""
        squares = [
            self._squares[index] for index in sorted(self._squares)
        ]  # in one order, so that a resumed transfer gives the same
        return math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.inf

    def check(self, what: str) -> None:
        """Raises UpdateRefused with a reason for every tensor that holds a value that is not
        finite.
        """
        counts: Counter[int] = sum(self._not_finite.values(), Counter())
        reasons = [
            Reason(
                self._specs[number].name,
                "not_finite",
                f"{count} of {self._specs[number].size} values",
            )
            for number, count in sorted(counts.items())
        ]
        if reasons:
            listed = "; ".join(
                f"{reason.tensor} holds a value that is not finite ({reason.text})"
                for reason in reasons[:30]
            )
            raise errors.UpdateRefused(
                f"{what}: {listed}; look at the site's training loss and lower its learning rate",
                reasons=reasons,
            )


def norm_of(file: TensorFile) -> float:
    """Returns the Euclidean norm of a model's values, in the memory of a chunk."""
    squares = []
    for start in range(0, file.nbytes, CHUNK_BYTES):
        data = file.read_range(start, min(CHUNK_BYTES, file.nbytes - start))
        for values in _values(data, start, dtype_runs(file.specs)):
            wide = values.astype(np.float64)
            squares.append(float(np.dot(wide, wide)))
    return math.sqrt(math.fsum(squares))


def _values(
    data: bytes, start: int, runs: Sequence[tuple[np.dtype, int, int]]
) -> Iterator[np.ndarray]:
    """Yields the values of a piece that begins at byte `start` of a model, one array for each dtype
    in it.
    """
    for dtype, run_start, run_bytes in runs:
        begin, end = (
            max(start, run_start) - start,
            min(start + len(data), run_start + run_bytes) - start,
        )
        if begin < end:
            yield np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, begin)


def usual_change(others: Sequence[float], *, initial_norm: float, num_values: int) -> float:
    """Returns how far an update may be expected to change the model, Euclidean norm.

    That is the median of what other sites' updates changed, and never less than a fifth of the norm
    of the initial model: before anybody else has sent anything there is nothing else to go by, and
    a hostile site that sends tiny changes must not shut the others out. Nor is it more than twice
    that norm, or a model that grows would widen the bound from round to round. The caller's own
    updates are left out. For scale: a whole training of 65 epochs in the demo's profile moves the
    weights by 0.37 times the norm of the initial ones.

    Args:
      others: norms of the changes by other sites, in the rounds before and in the open one.
      initial_norm: of global model 0.
      num_values: of a model; one of nothing but zeros counts as if its values were 0.001.
    """
    norm = max(initial_norm, _SMALL_VALUE * math.sqrt(num_values))
    return min(max(statistics.median(others or [0.0]), _LEAST * norm), _MOST * norm)


def check_change(change: float, usual: float, *, max_ratio: float, what: str) -> None:
    """Raises UpdateRefused for a change that is many times the usual one.

    Args:
      usual: see `usual_change`.
      max_ratio: 0 switches the check off.
    """
    if max_ratio and not change <= max_ratio * usual:
        text = f"it changes the model by {change:.4g} (Euclidean norm), {usual:.4g} is usual, {max_ratio:g} times that is taken"
        raise errors.UpdateRefused(
            f"{what}: {text}; look at the site's data and learning rate",
            reasons=[Reason("", "norm", text)],
        )
