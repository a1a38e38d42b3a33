"""How the supernet of a search is trained."""

from __future__ import annotations

import dataclasses

from runkit import settings
from runkit.settings import Condition, at_least, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupernetSettings:
    """The training of the supernet, and the limit of its paths."""

    supernet_steps: int = setting(
        120_000,
        "Steps of the supernet's training, over which the learning rate falls. Each step trains "
        "one path, so each operation of a cell is trained in a third of them.",
        condition=at_least(1),
    )
    checkpoint_every: int = setting(
        500,
        "Steps between two checkpoints of a training, from which a stopped search resumes.",
        condition=at_least(1),
    )
    most_gmac: float = setting(
        0.0,
        "Largest number of multiply-accumulates for one patch, in 10^9, of a path that is trained "
        "or scored; 0 allows all.",
        condition=Condition(
            lambda limit: 0 <= limit < float("inf"), "a finite number above 0, or 0 for no limit"
        ),
    )

    def __post_init__(self) -> None:
        settings.check(self)
