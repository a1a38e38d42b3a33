"""Shamir's secret sharing: `threshold` shares recover a 32-byte secret, fewer reveal nothing.

The secret is the constant term of a polynomial of degree threshold - 1 whose other coefficients are
random; a share is the value of the polynomial at one place.

Source: Shamir 1979, How to Share a Secret. The field is that of the integers modulo the Mersenne
prime 2**521 - 1, which is large enough for any 32 bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66


def split(
    secret: bytes,
    *,
    count: int,
    threshold: int,
    below: Callable[[int], int] = secrets.randbelow,
) -> dict[int, bytes]:
    """Returns {place: share} for the places 1 to `count`.

    Args:
      secret: 32 bytes.
      below: returns a random integer of at least 0 and less than its argument.
    Raises:
      ValueError: if the secret has another size, or the threshold is not 1 to `count`.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"the secret has {len(secret)} bytes; expected {SECRET_BYTES}")
    if not 1 <= threshold <= count:
        raise ValueError(f"threshold is {threshold}; expected 1 to {count}, the number of shares")
    coefficients = [int.from_bytes(secret, "big"), *(below(PRIME) for _ in range(threshold - 1))]
    return {
        place: _value(coefficients, place).to_bytes(SHARE_BYTES, "big")
        for place in range(1, count + 1)
    }


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Recovers a secret from exactly as many shares as its threshold.

    Raises:
      ValueError: if these are not shares, or not shares of one 32-byte secret.
    """
    secret = _interpolated(shares, 0)
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("these are not shares of one secret of 32 bytes")
    return secret.to_bytes(SECRET_BYTES, "big")


def differing(shares: Mapping[int, bytes], others: Mapping[int, bytes]) -> list[int]:
    """Returns the places in `others` whose shares do not belong to the secret of `shares`.

    Args:
      shares: correct shares, exactly as many as the threshold.
    """
    return [
        place
        for place, share in others.items()
        if share != _interpolated(shares, place).to_bytes(SHARE_BYTES, "big")
    ]


def _interpolated(shares: Mapping[int, bytes], at: int) -> int:
    """Returns the value, at one place, of the polynomial of lowest degree through the shares."""
    if not shares or min(shares) < 1:
        raise ValueError(f"shares at the places {sorted(shares)}; expected places from 1 on")
    values = {place: _number(share) for place, share in shares.items()}
    total = 0
    for place, value in values.items():
        above, below = 1, 1
        for other in values:
            if other != place:
                above, below = above * (at - other) % PRIME, below * (place - other) % PRIME
        total = (total + value * above * pow(below, -1, PRIME)) % PRIME
    return total


def _value(coefficients: list[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % PRIME
    return value


def _number(share: bytes) -> int:
    number = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or number >= PRIME:
        raise ValueError(f"a share has {len(share)} bytes or is too large; expected {SHARE_BYTES}")
    return number
