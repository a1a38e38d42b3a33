"""Small operations on the three axes of an array: triples, mirrored views, order in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

Box = tuple[slice, slice, slice]
T = TypeVar("T")


def three(values: Iterable[T]) -> tuple[T, T, T]:
    """Returns the values of x, y and z as a tuple. Raises ValueError unless there are three."""
    x, y, z = values
    return x, y, z


def mirrored(array: np.ndarray, flips: Iterable[bool]) -> np.ndarray:
    """Returns a view of `array` with the axes reversed whose flip is true."""
    return array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def memory_order(array: np.ndarray) -> tuple[int, ...]:
    """Returns the axes from the slowest in memory to the fastest."""
    return tuple(int(a) for a in np.argsort([-abs(s) for s in array.strides], kind="stable"))
