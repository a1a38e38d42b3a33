"""Random choices with the same values in every version of NumPy."""

from __future__ import annotations

from runkit import randomness
from runkit.randomness import KeyPart

_HIGHEST = 2**64


class Draws:
    """Choices that depend only on a seed, a purpose and the number of earlier draws.

    Two sites with different versions of NumPy must draw the same path. NumPy keeps the raw output
    of its generators the same in every version, but not that of its distributions.
    """

    def __init__(self, seed: int, *what: KeyPart):
        self._raw = randomness.generator(seed, *what).bit_generator

    def below(self, count: int) -> int:
        """Returns a number from 0 to `count` - 1; all are equally likely (to within 2**-60)."""
        return int(self._raw.random_raw()) * count // _HIGHEST

    def chance(self, probability: float) -> bool:
        """Returns True with a probability from 0 to 1."""
        return int(self._raw.random_raw()) < probability * _HIGHEST
