"""Statistics of a run from its event log, for the status table: bytes in each direction, the
progress of each site, the duration of each round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from federated.rounds.log_lines import LogLine

_KEPT_ROUNDS = 1000  # a longer run shows only its newest ones


@dataclasses.dataclass
class SiteStatistics:
    """One site. `doing` is the last thing it is known to have done, and `at` the time of that."""

    sent_bytes: int = 0
    received_bytes: int = 0
    updates: int = 0
    last_round: int = 0
    doing: str = "logged in"
    at: float = 0.0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    refused: int = 0


@dataclasses.dataclass
class RoundStatistics:
    """One round. `wall_s` is the time from its opening to its global model, None if the opening is
    not in the log.
    """

    sites: dict[str, int]
    wall_s: float | None
    bytes: int
    mean: float | None = None
    worst: float | None = None


class RunStatistics:
    """Adds up the records of an event log; for `AuditLog(listeners=[statistics.note])`.

    Args:
      records: earlier records, e.g. `AuditLog.read()`.
    """

    def __init__(self, records: Iterable[LogLine] = ()):
        self.sites: dict[str, SiteStatistics] = {}
        self.rounds: dict[int, RoundStatistics] = {}
        self._opened: dict[int, float] = {}
        self._bytes: dict[int, int] = {}
        for record in records:
            self.note(record)

    def note(self, record: LogLine) -> None:
        """Adds one record; a record of an unknown kind changes nothing."""
        at, name = float(record.get("time", 0.0)), record.get("site")
        if isinstance(name, str):
            site = self.sites.setdefault(name, SiteStatistics())
            site.at = at
            self._note_site(site, record)
        if record["event"] == "round_opened":
            self._opened.setdefault(record["round"], at)
        elif record["event"] == "aggregated":
            opened = self._opened.pop(record["round"], None)
            wall_s = None if opened is None else round(at - opened, 3)
            self.rounds[record["round"]] = RoundStatistics(
                dict(record["sites"]), wall_s, self._bytes.pop(record["round"], 0)
            )
            while len(self.rounds) > _KEPT_ROUNDS:
                del self.rounds[min(self.rounds)]

    def _note_site(self, site: SiteStatistics, record: LogLine) -> None:
        if record["event"] == "login":
            site.doing = "logged in"
        elif record["event"] == "pulled":
            site.received_bytes += record["bytes"]
            site.doing = f"pulled {record['model']}"
        elif record["event"] == "scored":
            site.scores = dict(record["scores"])
            site.doing = f"scored model {record['model']}"
        elif record["event"] == "pushed":
            site.sent_bytes += record.get("bytes", 0)
            site.updates += 1
            site.last_round = max(site.last_round, record["round"])
            site.doing = f"sent round {record['round']}"
            self._bytes[record["round"]] = self._bytes.get(record["round"], 0) + record.get(
                "bytes", 0
            )
        elif record["event"] == "published":
            site.sent_bytes += record["bytes"]
            site.doing = f"lent {record['model']}"
        elif record["event"] == "rows":
            site.doing = f"sent {record['rows']} rows"
        elif record["event"] == "site_finished":
            site.doing = "finished"
        elif record["event"] in ("refused", "login_refused"):
            site.refused += 1
