"""Releases of a site as the accountant sees them, and the guarantee of several together."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from federated.privacy.accountants import Accountant
from federated.privacy.gaussian import REACH

_SMALLEST = 1e-6  # differences below this are of no use to a reader


@dataclasses.dataclass(frozen=True)
class Release:
    """One update that left, or was about to leave.

    Attributes:
      kind: "gaussian", "pure" (an epsilon with delta 0), or "none" for one without a guarantee.
      amount: the noise in clipping norms for "gaussian", the epsilon for "pure", 0 for "none".
    """

    kind: Literal["gaussian", "pure", "none"]
    amount: float = 0.0


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """The guarantee for one patient of the site.

    The odds of any conclusion from the released data change by at most a factor of exp(epsilon) if
    another patient was in their place, except with probability delta.

    Attributes:
      epsilon: None if there is no guarantee.
    """

    epsilon: float | None
    delta: float

    def __str__(self) -> str:
        if self.epsilon is None:
            return "epsilon none (no guarantee)"
        at = f"delta {self.delta:g}" if self.delta else "delta 0"
        return f"epsilon {number(self.epsilon)} at {at}"


def number(epsilon: float) -> str:
    """Returns an epsilon with at least three digits, rounded up, e.g. "0.724" or "70,333"."""
    if 0.0 < epsilon < _SMALLEST:
        return f"below {_SMALLEST:f}"
    if not math.isfinite(epsilon) or epsilon == 0.0:
        return "0" if epsilon == 0.0 else "infinite"
    digits = max(0, 2 - math.floor(math.log10(epsilon)))
    return f"{math.ceil(epsilon * 10.0**digits - 1e-9) / 10.0**digits:,.{digits}f}"


def together(releases: Iterable[Release], *, accountant: Accountant, delta: float) -> Guarantee:
    """Returns the guarantee of all releases.

    The accountant composes those with Gaussian noise; epsilons with delta 0 are added up.
    """
    noise: Counter[float] = Counter()
    pure = 0.0
    for release in releases:
        if release.kind == "none":
            return Guarantee(None, 0.0)
        if release.kind == "gaussian":
            noise[release.amount / REACH] += 1
        else:
            pure += release.amount
    if not noise:
        return Guarantee(pure, 0.0)
    return Guarantee(accountant(noise, delta) + pure, delta)
