"""The operator's decisions for a server, and its summary of how a run ended."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from federated.aggregation import rules
from federated.aggregation.rule import AggregationRule
from federated.rounds import rounds
from federated.rounds.tasks import MAX_ROUND
from federated.tensors import codec
from federated.wire.messages import MAX_WAIT_S, MIN_WAIT_S


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The operator's decisions. Names as in Clara Train, which its users recognise."""

    num_rounds: int
    local_epochs: int = 10
    min_num_clients: int = 2
    max_num_clients: int = 2
    wait_after_min_clients_s: float = 10.0
    # Of a round, from its opening; extended while updates arrive.
    round_deadline_s: float | None = None
    # How long a transfer in progress may stand still before the round no longer waits for it.
    progress_grace_s: float = 60.0
    max_extension_s: float = 6 * 3600.0  # limit on all extensions of a deadline together
    # With "keep", an update that arrives after its round was averaged counts in the next one.
    late_updates: Literal["discard", "keep"] = "discard"
    # The aggregation rule and its parameters, e.g. "fedavgm:momentum=0.9", see aggregation/rules.py.
    aggregation: str = rules.DEFAULT
    # An update that changes the model this many times more than usual (see `update_checks`) is
    # refused; 0 accepts every change.
    max_change_ratio: float = 10.0
    # How models travel: unchanged, losslessly compressed ("deflate"), or rounded to float16
    # ("half").
    transport: str = "raw"
    # The run ends after this many scored global models without a better mean score; 0: never.
    patience_rounds: int = 0
    min_improvement: float = 0.0  # of the mean score, to count as better
    # A site that is silent for longer is no longer waited for, as long as enough others remain.
    heart_beat_timeout_s: float = 600.0
    # After the last round: publish models, evaluate them at every site, collect rows.
    cross_site_evaluation: bool = True
    token_lifetime_s: float = 24 * 3600.0
    # A waiting site asks again after this time; meanwhile it occupies a thread.
    poll_s: float = 20.0
    # Models in transfer from or to sites; memory grows with these, not with the number of sites.
    transfers_at_once: int = 2
    # Rounds whose updates stay on disk, so that an audit can average them again.
    keep_updates: int = 1
    # Newest global models that stay besides the initial and the best ones; 0 keeps all.
    keep_globals: int = 0
    # How long a server stays up after the end for sites that have not heard of it.
    linger_s: float = 60.0
    host: str = "0.0.0.0"
    port: int = 8443  # 0: any free one, written to <store>/address.json and kept across restarts

    def __post_init__(self) -> None:
        _, rule = self.policy, self.rule
        rule.check_updates(
            self.min_num_clients,
            given=f"min_num_clients is {self.min_num_clients}: raise it to {rule.min_updates} or "
            "more, or choose another aggregation rule",
        )
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; expected 1 to 65535, or 0 for any free one")
        if self.local_epochs < 1:
            raise ValueError(f"local_epochs is {self.local_epochs}; expected at least 1")
        if self.transport not in codec.TRANSPORTS:
            raise ValueError(
                f"transport is {self.transport!r}; expected one of {', '.join(codec.TRANSPORTS)}"
            )
        if self.max_change_ratio and not self.max_change_ratio > 1:
            raise ValueError(
                f"max_change_ratio is {self.max_change_ratio}; "
                "expected more than 1, or 0 for no such check"
            )
        if self.patience_rounds < 0 or self.min_improvement < 0:
            raise ValueError(
                f"patience_rounds is {self.patience_rounds}, "
                f"min_improvement {self.min_improvement}; expected 0 or more of both"
            )
        if self.transfers_at_once < 1:
            raise ValueError(f"transfers_at_once is {self.transfers_at_once}; expected at least 1")
        if self.keep_updates < 0 or self.keep_globals < 0 or self.keep_globals == 1:
            # The newest but one is scored while the newest is made, and may prove to be the best.
            raise ValueError(
                f"keep_updates is {self.keep_updates}, keep_globals {self.keep_globals}; "
                "expected 0 or more rounds, and 0 or at least 2 models"
            )
        for name in ("heart_beat_timeout_s", "token_lifetime_s", "poll_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected seconds, more than 0")
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

    @property
    def heart_beat_s(self) -> float:
        """Seconds between two heart beats of a site."""
        return min(60.0, self.heart_beat_timeout_s / 4)

    def to_json(self) -> dict[str, Any]:
        """Returns all settings as JSON-able values; "inf" stands for an unlimited time."""
        values = dataclasses.asdict(self)
        values["aggregation"] = str(self.rule)
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
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
    """How a server ended. `finished` is False if it was stopped before the end of the run; the same
    command then resumes it.
    """

    finished: bool
    rounds: int  # aggregated
    sites: tuple[str, ...]  # that took part
    best_round: int | None
    rows: int
