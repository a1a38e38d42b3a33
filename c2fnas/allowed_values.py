"""The values that settings of a network, a training and a prediction can have.

The code that uses a setting checks it by these, and so does its flag. This module needs no
TensorFlow, so programs without it can have the flags too.
"""

from __future__ import annotations

import math
from typing import Literal

from runkit.settings import Condition

VaeKind = Literal["reduced", "direct"]
InstanceNorm = Literal["rows", "library"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
KlKind = Literal["voxels", "latent"]
Treatment = Literal["background", "exclude", "restricted", "marginal", "distil"]
NonFinite = Literal["stop", "skip"]
Blending = Literal["constant", "gaussian"]

# Far beyond any useful value: much smaller ones already freeze the weights. Squares fit in float32.
LARGEST_PROXIMAL_WEIGHT = 1e6

PROXIMAL_WEIGHT = Condition(
    lambda weight: 0 <= weight <= LARGEST_PROXIMAL_WEIGHT,
    f"a number up to {LARGEST_PROXIMAL_WEIGHT:g}, or 0 for no such term",
)
VAE_RATE = Condition(
    lambda share: 0 < share <= 1, "a share of the learning rate, above 0 and at most 1"
)
CLIP_NORM = Condition(
    lambda norm: 0 <= norm < math.inf, "a finite number above 0, or 0 for no clipping"
)
OVERLAP = Condition(lambda share: 0 <= share < 1, "a share from 0 up to, not including, 1")
