"""Masks: streams of ring values that two sites, or one alone, generate from a seed of 256 bits.

Of two sites, the one whose name sorts first adds the stream that both know, and the other subtracts
it, so that it cancels in their sum. AES-256 in counter mode generates the stream, so any piece of
it can be computed by itself and a model is masked slab by slab.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from federated.secure_aggregation.ring import WORD

SEED_BYTES = 32
_BLOCK_BYTES = 16


class Mask(NamedTuple):
    """A stream that is added or subtracted."""

    seed: bytes  # used for this stream and nothing else
    negative: bool = False

    def opposite(self) -> Mask:
        return Mask(self.seed, not self.negative)


def words(seed: bytes, first: int, count: int) -> np.ndarray:
    """Returns the values `first` to `first + count - 1` of a seed's stream, uint64 [count]."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {len(seed)} bytes; expected {SEED_BYTES}")
    block, skipped = divmod(first * WORD.itemsize, _BLOCK_BYTES)
    stream = Cipher(algorithms.AES(seed), modes.CTR(block.to_bytes(_BLOCK_BYTES, "big")))
    made = stream.encryptor().update(bytes(skipped + count * WORD.itemsize))
    return np.frombuffer(made, WORD, count, skipped)


def add(values: np.ndarray, masks: Iterable[Mask], first: int) -> np.ndarray:
    """Adds masks to `values` in place, modulo 2**64, and returns them.

    Args:
      values: uint64 [n].
      first: index of the first value within the model.
    """
    for mask in masks:
        stream = words(mask.seed, first, values.size)
        (np.subtract if mask.negative else np.add)(values, stream, out=values)
    return values


def pair_mask(site: str, other: str, seed: bytes) -> Mask:
    """Returns the mask that `site` adds for its pair with `other`."""
    if site == other:
        raise ValueError(f"site {site!r} has no pair mask with itself")
    return Mask(seed, negative=site > other)
