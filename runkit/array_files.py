"""NumPy arrays as .npy files, with every disk error reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, overload

import numpy as np

from runkit import atomic


def save(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes an array as `numpy.save` does, byte for byte.

    `numpy.save` hands a file's descriptor to the C library and does not check whether the last part
    of the data could be written: on a full disk it would leave half a file without an error.
    """
    with open(path, "wb") as stream:
        np.save(_Stream(stream.write), array, allow_pickle=False)  # type: ignore[call-overload]  # no file for numpy's stub


@overload
def load(path: str | os.PathLike, *, mmap_mode: None = None) -> np.ndarray: ...
@overload
def load(path: str | os.PathLike, *, mmap_mode: Literal["r"]) -> np.memmap: ...
def load(path: str | os.PathLike, *, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Reads an array; disk errors name the file. With `mmap_mode`, the array stays on disk."""
    with atomic.naming(path):
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)


class _Stream:
    """An object that numpy.save does not recognise as a system file, so it calls `write`."""

    def __init__(self, write: Callable[[Any], int]):
        self.write = write
