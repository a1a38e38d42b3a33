"""The small budget with which a candidate is judged, and the score of a training that diverges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from experiments.search.supernet_settings import SupernetSettings
from runkit import settings
from runkit.settings import at_least, setting

if TYPE_CHECKING:
    from experiments.results.verdicts.search_verdicts import SearchedCase
    from experiments.search.candidate_training import TrainedScores


MOST_TRAININGS = (
    "Number of trainings after which the program ends, to release its memory: each leaves up to "
    "200 MB behind. The same command resumes. 0 runs all."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxySettings:
    """How a candidate is trained."""

    proxy_steps: int = setting(
        20_000,
        "Steps of a candidate's training, over which the learning rate falls; a full training "
        "takes many times as many.",
        condition=at_least(1),
    )
    checkpoint_every: int = settings.same_as(SupernetSettings, "checkpoint_every")

    def __post_init__(self) -> None:
        settings.check(self)


def scored(train: Callable[[], TrainedScores], macs: float) -> tuple[float, Mapping[str, float]]:
    """Returns a candidate's score and the numbers to keep with it.

    The score is the mean over all validation cases of the Dice of the classes that each label
    shows. A training with a non-finite loss scores 0: a network that diverges with the settings
    that all candidates share is ruled out.

    Args:
      train: trains and scores the candidate; the memory of its networks is released afterwards.
      macs: multiply-accumulates of the candidate for one patch.
    """
    from c2fnas.training import NonFiniteLoss
    from experiments.results.verdicts.search_verdicts import mean_score
    from experiments.search.candidate_training import released

    try:
        found = released(train)
    except NonFiniteLoss:
        return 0.0, {"macs": float(macs), "seconds": 0.0, "diverged": 1.0}
    rows = found.rows["validation"]
    return mean_score(rows), {
        "macs": float(macs),
        "seconds": round(found.seconds, 1),
        **by_site(rows),
    }


def by_site(rows: list[SearchedCase]) -> dict[str, float]:
    """Returns `dice_<site>`, the mean score over each site's cases."""
    from experiments.results.verdicts.search_verdicts import mean_score

    sites = sorted({row["site"] for row in rows})
    return {
        f"dice_{site}": mean_score([row for row in rows if row["site"] == site]) for site in sites
    }
