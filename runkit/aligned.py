"""Arrays that another library can read where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# a line of the processor's cache, and the widest of its vectors: what TensorFlow asks of memory
# that it takes over
_BYTES = 64


def aligned_empty(shape: Sequence[int], dtype: np.typing.DTypeLike) -> np.ndarray:
    """Returns an array that begins at a multiple of 64 bytes, its values not set."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _BYTES, dtype=np.uint8)
    begin = -memory.ctypes.data % _BYTES
    return memory[begin : begin + size].view(dtype).reshape(shape)


def is_aligned(array: np.ndarray) -> bool:
    return array.flags.c_contiguous and array.ctypes.data % _BYTES == 0
