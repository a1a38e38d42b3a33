"""CT intensities as the network sees them."""

from __future__ import annotations

import numpy as np


def window(hu: np.ndarray, low: float = -200.0, high: float = 250.0) -> np.ndarray:
    """Clips HU to [low, high] and scales that range to [-1, 1].

    Args:
      hu: any real dtype and shape.
      low, high: HU that become exactly -1 and 1.
    Returns:
      float32, the shape and memory order of `hu`.
    Raises:
      ValueError: if `low` is not below `high`.
    Source: Wang et al. 2020, section 2.3.
    """
    if not low < high:
        raise ValueError(f"window is ({low}, {high}) HU; expected the lower end first")
    scaled = np.subtract(hu, np.float32((low + high) / 2), dtype=np.float32)
    scaled /= np.float32((high - low) / 2)
    return np.clip(scaled, np.float32(-1), np.float32(1), out=scaled)
