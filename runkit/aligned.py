"""Arrays aligned in memory, so that another library can use them without a copy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# One cache line and the widest vector register; TensorFlow requires it of memory it borrows.
_BYTES = 64


def aligned_empty(shape: Sequence[int], dtype: np.typing.DTypeLike) -> np.ndarray:
    """Returns an uninitialised array whose address is a multiple of 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _BYTES, dtype=np.uint8)
    begin = -memory.ctypes.data % _BYTES
    return memory[begin : begin + size].view(dtype).reshape(shape)


def is_aligned(array: np.ndarray) -> bool:
    """Returns whether `array` is C-contiguous and its address is a multiple of 64 bytes."""
    return array.flags.c_contiguous and array.ctypes.data % _BYTES == 0
