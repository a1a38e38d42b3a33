"""On what terms a site takes part in secure sums, as the site itself decides."""

from __future__ import annotations

import dataclasses

from federated.errors import PolicyRefused
from federated.wire.messages import MAX_SUMMANDS, SumSettings
from runkit import settings
from runkit.settings import Condition, at_least, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumTerms:
    """What a site demands of secure aggregation; no server can change it."""

    require_secure_aggregation: bool = setting(
        False,
        "Send masked updates only: a server without --secure_aggregation gets nothing from this "
        "site. Needs --nolend_local and no --lend, since such models would leave as they are.",
    )
    min_sum_sites: int = setting(
        3,
        "With secure aggregation: this site neither sends its masked update to a sum of fewer "
        "sites nor helps to open one; it waits until enough of them are back. A sum of two tells "
        "each of the two the other's update. In one run it can be raised and never lowered. More "
        "than 3 needs --require_secure_aggregation.",
        condition=Condition(
            lambda number: 2 <= number <= MAX_SUMMANDS, f"2 to {MAX_SUMMANDS}, a number of sites"
        ),
    )
    repeated_sums: int = setting(
        0,
        "With secure aggregation: how often in the run this site helps to open another sum of a "
        "round of which it has helped to open one, for example after a site was evicted and the "
        "run taken back. The difference of the two sums can be a single site's update, so by "
        "default it never does.",
        condition=at_least(0),
    )

    def __post_init__(self) -> None:
        settings.check(self)

    def check(self, sums: SumSettings) -> None:
        """Checks that a run can keep these terms.

        The other sites can open a sum without this one if the threshold of them agree to it. So its
        refusal keeps a sum from being opened only if that has no more sites than the threshold.

        Raises:
          PolicyRefused: if the run has too few sites, or the threshold is too low for that.
        """
        if self.min_sum_sites > sums.max_sites:
            raise PolicyRefused(
                f"min_sum_sites is {self.min_sum_sites}, and this run has at most {sums.max_sites} "
                f"sites; give --min_sum_sites={sums.max_sites} or less, or have more sites join "
                "(--max_num_clients at the server)"
            )
        if self.min_sum_sites > sums.threshold + 1:
            raise PolicyRefused(
                f"min_sum_sites is {self.min_sum_sites}, and this run opens sums of "
                f"{sums.threshold} sites: others could open a smaller sum with this "
                "site's update although it refuses. Have the server started with "
                f"--secure_aggregation_threshold={self.min_sum_sites}, or give "
                f"--min_sum_sites={sums.threshold + 1} or less"
            )
