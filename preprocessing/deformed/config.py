"""The settings of two sites made of deformed copies."""

from __future__ import annotations

import dataclasses

from runkit import settings
from runkit.settings import Condition, setting

SITES = ("C1", "C2")
_ONE_EACH = Condition(
    lambda counts: len(counts) == 3 and min(counts) >= 1,
    "at least one case each for training, validation, test",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeformedConfig:
    """The size and seed of a cohort; the seed determines the split of the sources and the copies.

    Attributes:
      split_c1, split_c2: numbers of training, validation and test cases of each site.
    """

    split_c1: tuple[int, int, int] = setting(
        (18, 6, 6), "Numbers of C1's copies for training,validation,test.", condition=_ONE_EACH
    )
    split_c2: tuple[int, int, int] = setting(
        (20, 7, 7), "Numbers of C2's copies for training,validation,test.", condition=_ONE_EACH
    )
    seed: int = setting(1, "Random seed; the same seed and sources give the same copies.")

    def __post_init__(self) -> None:
        settings.check(self)

    @property
    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Site -> numbers of training, validation and test cases."""
        return dict(zip(SITES, (self.split_c1, self.split_c2), strict=True))
