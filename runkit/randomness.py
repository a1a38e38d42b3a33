"""Random numbers that depend only on their purpose, never on earlier draws.

A resumed run, a prefetching pipeline and a second machine all get the same numbers for (seed, what,
step, slot).
"""

from __future__ import annotations

import hashlib

import numpy as np

KeyPart = str | int


def digest(seed: int, *what: KeyPart) -> bytes:
    """Returns 32 bytes that depend only on `seed` and every part of `what`."""
    text = "\x1f".join(
        [f"i{int(seed)}", *(f"s{p}" if isinstance(p, str) else f"i{int(p)}" for p in what)]
    )
    return hashlib.sha256(text.encode("utf-8")).digest()


def generator(seed: int, *what: KeyPart) -> np.random.Generator:
    """Returns a separate generator for `(seed, *what)`, e.g. `generator(7, "patch", step, slot)`.

    Philox is counter-based: creating a generator takes microseconds, and two different keys never
    share a stream.
    """
    key = np.frombuffer(digest(seed, *what)[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def seed_pair(seed: int, *what: KeyPart) -> np.ndarray:
    """Returns int32 [2], a seed for TensorFlow's stateless random operations."""
    return np.frombuffer(digest(seed, *what)[:8], dtype=np.int32).copy()
