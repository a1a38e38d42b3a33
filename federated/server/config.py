"""The operator's settings for a server, and the server's summary of how a run ended."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from federated.aggregation import rules
from federated.aggregation.rule import AggregationRule
from federated.rounds import rounds
from federated.rounds.sum_phases import SumPolicy
from federated.rounds.tasks import MAX_ROUND
from federated.secure_aggregation import ring, roster
from federated.tensors import codec
from federated.wire import addresses
from federated.wire.messages import MAX_WAIT_S, MIN_WAIT_S, SumSettings
from runkit import settings
from runkit.settings import SECONDS, Condition, at_least, setting

_NOT_NEGATIVE = at_least(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The operator's settings. The names are those of Clara Train, which its users recognise."""

    num_rounds: int
    local_epochs: int = setting(10, "Epochs of local training per round.", condition=at_least(1))
    min_num_clients: int = setting(2, "Number of updates that a round needs before it can close.")
    max_num_clients: int = setting(2, "Largest number of sites that may take part.")
    wait_after_min_clients_s: float = setting(
        10.0,
        "Seconds to wait for further sites once the minimum number of updates has arrived.",
        flag="wait_after_min_clients",
    )
    round_deadline_s: float | None = setting(
        None,
        "Seconds from the opening of a round after which it stops waiting for sites; extended "
        "while updates are arriving. 0 waits for the minimum without limit.",
        flag="round_deadline",
        unset=0.0,
    )
    # How long a transfer in progress may pause before the round no longer waits for it.
    progress_grace_s: float = 60.0
    max_extension_s: float = 6 * 3600.0  # limit on all extensions of a deadline together
    late_updates: Literal["discard", "keep"] = setting(
        "discard",
        "Updates that arrive after their round was averaged: discard them, or keep them for the "
        "next round.",
    )
    aggregation: str = setting(
        rules.DEFAULT,
        "Rule by which the server makes the next global model; only the server uses it. Parameters "
        "that differ from their defaults follow a colon, e.g. fedavgm:momentum=0.5. "
        + rules.described(),
        later=True,
    )
    max_change_ratio: float = setting(
        10.0,
        "Refuse an update that changes the model by more than this many times the usual amount: "
        "the median change of the other sites over the last five rounds, but at least a fifth of "
        "the initial model's norm. 0 disables the check.",
        condition=Condition(
            lambda ratio: not ratio or ratio > 1, "more than 1, or 0 for no such check"
        ),
    )
    transport: str = setting(
        "raw",
        "How models are sent: unchanged, losslessly compressed, or rounded to float16.",
        choices=codec.TRANSPORTS,
    )
    patience_rounds: int = setting(
        0,
        "End the run after this many scored global models in a row without a better mean score; 0 "
        "disables this. Sites score one model every --validation_every rounds.",
        condition=_NOT_NEGATIVE,
    )
    min_improvement: float = 0.0  # increase of the mean score that counts as an improvement
    heart_beat_timeout_s: float = setting(
        600.0,
        "Seconds without a sign of life after which the server no longer waits for a site, as long "
        "as enough others remain.",
        condition=SECONDS,
        flag="heart_beat_timeout",
    )
    # After the last round: publish models, evaluate them at every site, collect rows.
    cross_site_evaluation: bool = True
    token_lifetime_s: float = setting(
        24 * 3600.0, "Seconds for which a login is valid.", condition=SECONDS, flag="token_lifetime"
    )
    # A waiting site asks again after this time; meanwhile it occupies a thread.
    poll_s: float = 20.0
    transfers_at_once: int = setting(
        2,
        "Number of models that sites upload or download at the same time; further ones wait. The "
        "server's memory grows with this number, not with the number of sites.",
        condition=at_least(1),
    )
    keep_updates: int = setting(
        1,
        "Number of newest rounds whose updates remain in the store, so that experiments.audit can "
        "average them again.",
        condition=_NOT_NEGATIVE,
    )
    keep_globals: int = setting(
        0,
        "Number of newest global models to keep besides the initial and the best one; 0 keeps all.",
        # The second newest is scored while the newest is made, and may turn out to be the best.
        condition=Condition(
            lambda number: number == 0 or number >= 2, "at least 2 models, or 0 for all"
        ),
    )
    log_segment_mib: float = setting(
        16.0,
        "Size of the event log in MiB at which it continues in a new segment; full segments are "
        "compressed and remain in <store>/events.",
        condition=at_least(0.01),
    )
    keep_log_segments: int = setting(
        0,
        "Number of newest full segments of the event log to keep; 0 keeps all. A signed line of "
        "the log states what was removed; experiments.audit cannot check the rounds in it.",
        condition=_NOT_NEGATIVE,
    )
    secure_aggregation: bool = setting(
        False,
        "Let sites mask their updates, so that this server learns their sum but no single update. "
        "For three or more sites; needs --max_change_ratio=0 --keep_updates=0, and a rule that "
        "works on the mean.",
    )
    secure_aggregation_threshold: int = setting(
        0,
        "With secure aggregation: number of sites that must agree to open a sum, and smallest "
        "number of sites in a sum; more than half of --max_num_clients. 0 takes the smallest such "
        "number. The others may drop out of a round.",
        condition=_NOT_NEGATIVE,
    )
    secure_aggregation_range: float = setting(
        64.0,
        "With secure aggregation: largest absolute change of any value in a round. A site whose "
        "update changes a value by more stops with an error.",
        condition=at_least(2.0**-20),
    )
    secure_aggregation_deadline_s: float = setting(
        600.0,
        "With secure aggregation: seconds that each phase after the training waits for sites; "
        "extended while updates are arriving.",
        condition=SECONDS,
        flag="secure_aggregation_deadline",
    )
    # How long a server keeps running after the end for sites that have not been told of it.
    linger_s: float = 60.0
    host: str = setting("0.0.0.0", "Address to listen on.")
    port: int = setting(
        addresses.DEFAULT_PORT,
        "Port to listen on. 0 takes any free one, writes it to <store>/address.json and keeps it "
        "across restarts.",
        condition=Condition(lambda port: 0 <= port <= 65535, "1 to 65535, or 0 for any free one"),
    )

    def __post_init__(self) -> None:
        settings.check(self)
        settings.require(_NOT_NEGATIVE, "min_improvement", self.min_improvement)
        settings.require(SECONDS, "poll_s", self.poll_s)
        _, rule = self.policy, self.rule
        if self.num_rounds:  # an evaluation without training aggregates nothing
            rule.check_updates(
                self.min_num_clients,
                given=f"min_num_clients is {self.min_num_clients}: raise it to {rule.min_updates} "
                "or more, or choose another aggregation rule",
            )
        elif not self.cross_site_evaluation:
            raise ValueError(
                "num_rounds is 0 and cross_site_evaluation is off, so the run would do nothing; "
                "give at least one round, or leave the evaluation on"
            )
        if self.secure_aggregation:
            self._check_secure_aggregation()
        if not (self.num_rounds <= MAX_ROUND and self.local_epochs <= MAX_ROUND):
            raise ValueError(
                f"num_rounds is {self.num_rounds}, local_epochs {self.local_epochs}; "
                f"sites accept at most {MAX_ROUND} of each"
            )
        for name, seconds in (("poll_s", self.poll_s), ("heart_beat_timeout_s", self.heart_beat_s)):
            if not MIN_WAIT_S <= seconds <= MAX_WAIT_S:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; sites would ask every {seconds:g} s, "
                    f"and accept {MIN_WAIT_S:g} to {MAX_WAIT_S:g} s"
                )

    def _check_secure_aggregation(self) -> None:
        """Checks the settings that secure aggregation excludes.

        Raises:
          ValueError: listing all excluded settings, with the reasons and the remedies.
        """
        refused = [f"{what}: {why}" for excluded, what, why in self._exclusions() if excluded]
        if refused:
            raise ValueError(f"secure_aggregation is on, which excludes {'; '.join(refused)}")
        try:
            ring.check_settings(self._sum_settings())
        except ValueError as error:
            raise ValueError(f"secure_aggregation is on, but {error}") from error

    def _exclusions(self) -> list[tuple[bool, str, str]]:
        """Returns (whether the setting is excluded, the setting, the reason and the remedy)."""
        threshold = self._sum_settings().threshold
        return [
            (
                not self.num_rounds,
                "num_rounds 0",
                "an evaluation without training has no updates; omit --secure_aggregation",
            ),
            (
                self.min_num_clients < roster.LEAST_SITES,
                f"min_num_clients {self.min_num_clients}",
                "of two sites, each can subtract its own update from the sum; give "
                f"--min_num_clients={roster.LEAST_SITES} or more",
            ),
            (
                self.min_num_clients < threshold,
                f"min_num_clients {self.min_num_clients} below the threshold {threshold}",
                f"a sum is opened by {threshold} sites; give --min_num_clients={threshold} or more",
            ),
            (
                bool(self.max_change_ratio),
                f"max_change_ratio {self.max_change_ratio:g}",
                "the server cannot see how much a single update changes; give --max_change_ratio=0",
            ),
            (
                self.rule.gathers_updates,
                f"aggregation {self.rule}",
                "the rule compares single updates; give one that works on the mean, e.g. "
                "--aggregation=fedavg",
            ),
            (
                bool(self.keep_updates),
                f"keep_updates {self.keep_updates}",
                "masked updates cannot be averaged again once their round is over, so the audit "
                "cannot recompute it; give --keep_updates=0",
            ),
            (
                self.late_updates == "keep",
                "late_updates keep",
                "the masks of an update belong to one round; give --late_updates=discard",
            ),
        ]

    def _sum_settings(self) -> SumSettings:
        return SumSettings(
            self.secure_aggregation_threshold or self.max_num_clients // 2 + 1,
            self.max_num_clients,
            float(self.secure_aggregation_range),
            ring.FRACTION_BITS,
        )

    @property
    def sums(self) -> SumSettings | None:
        """The fixed settings of a run with secure aggregation; None without it."""
        return self._sum_settings() if self.secure_aggregation else None

    @property
    def sum_policy(self) -> SumPolicy:
        return SumPolicy(
            threshold=self._sum_settings().threshold,
            phase_deadline_s=self.secure_aggregation_deadline_s,
        )

    @property
    def heart_beat_s(self) -> float:
        """Seconds between two heartbeats of a site."""
        return min(60.0, self.heart_beat_timeout_s / 4)

    def to_json(self) -> dict[str, str | float | None]:
        """Returns all settings as JSON-able values; "inf" stands for an unlimited time."""
        values = dataclasses.asdict(self)
        values["aggregation"] = str(self.rule)
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
            if self.secure_aggregation or not name.startswith("secure_aggregation")
        }

    @property
    def rule(self) -> AggregationRule:
        return rules.parse(self.aggregation)

    @property
    def policy(self) -> rounds.Policy:
        return rounds.Policy(
            min_num_clients=self.min_num_clients,
            max_num_clients=self.max_num_clients,
            num_rounds=self.num_rounds,
            wait_after_min_clients_s=self.wait_after_min_clients_s,
            round_deadline_s=self.round_deadline_s,
            progress_grace_s=self.progress_grace_s,
            max_extension_s=self.max_extension_s,
            late_updates=self.late_updates,
        )


@dataclasses.dataclass(frozen=True)
class ServerSummary:
    """How a server ended.

    `finished` is False if it was stopped before the end of the run; the same command then resumes
    the run.
    """

    finished: bool
    rounds: int  # number of aggregated rounds
    sites: tuple[str, ...]  # sites that took part
    best_round: int | None
    rows: int
