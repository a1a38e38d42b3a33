"""Checks that an update must pass to count: finite values, and a change of a usual size."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np

from federated import errors
from federated.errors import Reason
from federated.tensors.tensor_files import TensorFile, TensorSelection
from federated.tensors.weights import CHUNK_BYTES, DTYPES, TensorSpec, dtype_runs, stretches

_LEAST, _MOST = 0.2, 2.0  # bounds of the usual change, in norms of the initial model
_SMALL_VALUE = 1e-3  # assumed for each value of an initial model of zeros


class UpdateCheck:
    """Checks the chunks of an update as they arrive, in any order.

    Its memory is one number per chunk, and one per tensor with non-finite values.

    Args:
      specs: the update's tensors in canonical order.
      reference: the global model that the update changes, with the same tensors; None to check
        only that values are finite.
    """

    def __init__(
        self, specs: Sequence[TensorSpec], reference: TensorFile | TensorSelection | None = None
    ):
        self._specs, self._reference, self._runs = tuple(specs), reference, dtype_runs(specs)
        self._places = list(
            itertools.accumulate(map(operator.attrgetter("nbytes"), specs), initial=0)
        )
        self._squares: dict[int, float] = {}
        self._not_finite: dict[int, Counter[int]] = {}  # chunk -> tensor -> number of values

    def look(self, index: int, data: bytes | memoryview) -> None:
        """Checks chunk number `index`."""
        start, total, finite, view = index * CHUNK_BYTES, 0.0, True, memoryview(data)
        before = memoryview(
            b"" if self._reference is None else self._reference.read_range(start, len(data))
        )
        for dtype, begin, end in stretches(self._runs, start, start + len(data)):
            values = np.frombuffer(view[begin - start : end - start], dtype)
            squares = math.inf
            if self._reference is not None:
                # float32 is exact enough for a norm, and float16 squares would overflow.
                wide = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
                reference = np.frombuffer(before[begin - start : end - start], dtype)
                change = np.subtract(values, reference, dtype=wide)
                squares = float(np.dot(change, change))
                total += squares
            # If the sum of squares is finite, every value is; only otherwise check each one.
            finite &= math.isfinite(squares) or bool(np.isfinite(values).all())
        if not finite:
            self._not_finite[index] = self._count(start, data)
        self._squares[index] = total

    def _count(self, start: int, data: bytes | memoryview) -> Counter[int]:
        """Returns tensor number -> its number of non-finite values in a chunk."""
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
        """Euclidean norm of the update's change to the model; infinite if a square overflows."""
        # `fsum` rounds once, so a resumed transfer gives the same bits in any order.
        squares = self._squares.values()
        try:
            return math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.inf
        except OverflowError:  # of the sum
            return math.inf

    def check(self, what: str) -> None:
        """Raises UpdateRefused with a reason for every tensor with non-finite values."""
        if not self._not_finite:
            return
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


def norm_of(file: TensorFile | TensorSelection) -> float:
    """Returns the Euclidean norm of a model's values, reading one chunk at a time."""
    squares, runs = [], dtype_runs(file.specs)
    for start in range(0, file.nbytes, CHUNK_BYTES):
        data = file.read_range(start, min(CHUNK_BYTES, file.nbytes - start))
        for dtype, begin, end in stretches(runs, start, start + len(data)):
            part = memoryview(data)[begin - start : end - start]
            wide = np.frombuffer(part, dtype).astype(np.float64)
            squares.append(float(np.dot(wide, wide)))
    return math.sqrt(math.fsum(squares))


def usual_change(others: Sequence[float], *, initial_norm: float, num_values: int) -> float:
    """Returns the Euclidean norm of a change to the model that can be expected of an update.

    That is the median of the changes by other sites; the site's own updates do not count. It is at
    least a fifth of the norm of the initial model, because there is no other measure before other
    sites have sent updates, and because a hostile site must not shut others out by sending tiny
    changes. It is at most twice that norm, because otherwise a growing model would widen the bound
    from round to round. For scale: a whole training of 65 epochs in the demo's profile moves the
    weights by 0.37 times the norm of the initial ones.

    Args:
      others: norms of the changes by other sites, in earlier rounds and in the open one.
      initial_norm: norm of global model 0; a model of zeros counts as if every value were 0.001.
      num_values: number of values of a model.
    """
    norm = max(initial_norm, _SMALL_VALUE * math.sqrt(num_values))
    return min(max(statistics.median(others or [0.0]), _LEAST * norm), _MOST * norm)


def check_change(change: float, usual: float, *, max_ratio: float, what: str) -> None:
    """Raises UpdateRefused for a change that is more than `max_ratio` times the usual one.

    Args:
      change, usual: Euclidean norms; see `usual_change`.
      max_ratio: 0 switches the check off.
      what: the update, for the message.
    """
    if max_ratio and not change <= max_ratio * usual:
        text = (
            f"it changes the model by {change:.4g} (Euclidean norm); {usual:.4g} is usual, "
            f"and at most {max_ratio:g} times that is accepted"
        )
        raise errors.UpdateRefused(
            f"{what}: {text}; look at the site's data and learning rate. If such changes are "
            "intended, the server's operator can raise --max_change_ratio",
            reasons=[Reason("", "norm", text)],
        )
