"""Noise from the operating system's generator, added on a grid.

A sum of floating-point numbers reveals its terms: only some sums can occur for a given value, so
the low bits of a noisy number may show what it was before (Mironov 2012). Therefore values and
noise are rounded to whole multiples of one power of two, which depends only on the scale of the
noise, and added as integers. An integer plus rounded noise equals the rounded value of their exact
sum, and every number that occurs for one patient's data could also occur for another's.

What remains is that a sampler in float64 only approximates the distribution: a cell of the grid
contains thousands of its values, the tails reach 13 standard deviations (Gaussian) or 88 scales
(Laplace), and the time it takes is not constant. An exact sampler of the discrete distribution
would have neither flaw (Canonne et al. 2020), but would take hours for a network.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import numpy as np

Bits = Callable[[int], bytes]  # returns that many random bytes
GAUSSIAN_BITS, LAPLACE_BITS = 30, 40  # grid cells per scale of the noise, as powers of two
_BLOCK = 2**18  # values generated at a time, so that memory does not grow with the model


def system_bits(count: int) -> bytes:
    """Returns random bytes from the operating system, never from a run's seed.

    A server that knows the seed could draw the same noise and subtract it.
    """
    return os.urandom(count)


def gaussian(count: int, bits: Bits = system_bits) -> np.ndarray:
    """Returns standard normal values, float64 [count], by Box and Muller's method."""
    values = np.empty(count)
    for block in _blocks(count):
        pairs = -(-(block.stop - block.start) // 2)
        radius = np.sqrt(-2.0 * np.log(_uniform(pairs, bits)))
        angle = 2.0 * math.pi * (_words(pairs, bits) * 2.0**-64)
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        values[block] = both[: block.stop - block.start]
    return values


def laplace(count: int, bits: Bits = system_bits) -> np.ndarray:
    """Returns values of the Laplace distribution with scale 1, float64 [count]."""
    values = np.empty(count)
    for block in _blocks(count):
        size = block.stop - block.start
        sign = 1.0 - 2.0 * (_words(size, bits) & np.uint64(1))
        values[block] = -np.log(_uniform(size, bits)) * sign
    return values


def grid(scale: float, bits_per_scale: int) -> float:
    """Returns the width of a grid cell, a power of two, for noise of that scale."""
    return math.ldexp(1.0, math.floor(math.log2(scale)) - bits_per_scale)


def on_grid(values: np.ndarray, cell: float) -> np.ndarray:
    """Returns the nearest whole numbers of cells, which float64 represents exactly."""
    whole: np.ndarray = np.rint(values / cell)
    return whole


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(count, start + _BLOCK))


def _words(count: int, bits: Bits) -> np.ndarray:
    return np.frombuffer(bits(8 * count), "<u8")


def _uniform(count: int, bits: Bits) -> np.ndarray:
    """Returns values in (0, 1] with full float64 precision, however small, from 128 bits each.

    With fewer bits, the tail of the noise would have gaps.
    """
    high, low = _words(count, bits), _words(count, bits)
    uniform: np.ndarray = (high + (low + 0.5) * 2.0**-64) * 2.0**-64
    return uniform
