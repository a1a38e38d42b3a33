"""Random numbers that are a function of what they are for, never of what was drawn before.

A resumed run, a prefetching pipeline and a second machine all get the same choice for (seed, what,
step, slot).
"""

from __future__ import annotations

import hashlib

import numpy as np

Part = str | int


def digest(seed: int, *what: Part) -> bytes:
    """Returns 32 bytes that depend on `seed` and every part of `what`, and on nothing else."""
    text = "\x1f".join(
        [f"i{int(seed)}", *(f"s{p}" if isinstance(p, str) else f"i{int(p)}" for p in what)]
    )
    return hashlib.sha256(text.encode("utf-8")).digest()


def generator(seed: int, *what: Part) -> np.random.Generator:
    """Returns a generator of its own for `(seed, *what)`, e.g. `generator(7, "patch", step, slot)`.

    Philox is counter based, so building one costs microseconds and two different keys never share a
    stream.
    """
    key = np.frombuffer(digest(seed, *what)[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def seed_pair(seed: int, *what: Part) -> np.ndarray:
    """Returns int32 [2], the seed that TensorFlow's stateless random operations take."""
    return np.frombuffer(digest(seed, *what)[:8], dtype=np.int32).copy()
