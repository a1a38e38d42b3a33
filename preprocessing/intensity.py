"""CT intensities as the network sees them."""

from __future__ import annotations

import numpy as np


def window(hu: np.ndarray, low: float = -200.0, high: float = 250.0) -> np.ndarray:
    """Returns float32 in [-1, 1]: HU clipped to [low, high] and scaled linearly.

    Source: Wang et al. 2020, section 2.3.
    """
    scaled = np.clip(hu, low, high).astype(np.float32)
    scaled -= (low + high) / 2.0
    scaled *= 2.0 / (high - low)
    return scaled
