"""Statistics of a run from its event log, for the status table: bytes in each direction, the
progress of each site, the duration of each round.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

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
    Attributes:
      refusals: kind -> refused updates, models and logins. The log names the 1st, 10th, 100th, ...
        refusal of a login, so of these as many are known.
      seconds: phase -> seconds: "collection" (from the opening of a round to its aggregation),
        "aggregation", "upload" and "download" (summed over the transfers, which overlap) and
        "evaluation" (after the last round, once it has ended).
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()):
        self.sites: dict[str, SiteStatistics] = {}
        self.rounds: dict[int, RoundStatistics] = {}
        self._opened: dict[int, float] = {}
        self._bytes: dict[int, int] = {}
        self.refusals, self.seconds = Counter[str](), defaultdict[str, float](float)
        self._login_refusals: dict[tuple[str, str], int] = {}
        self._evaluation_began: float | None = None
        for record in records:
            self.note(record)

    def note(self, record: Mapping[str, Any]) -> None:
        """Adds one record; a record of an unknown kind changes nothing."""
        event, at = record.get("event"), float(record.get("time", 0.0))
        if isinstance(record.get("site"), str):
            site = self.sites.setdefault(record["site"], SiteStatistics())
            site.at = at
            self._note_site(site, event, record)
        if event in ("pulled", "pushed", "published"):
            phase = "download" if event == "pulled" else "upload"
            self.seconds[phase] += record.get("seconds", 0.0)
        elif event in ("refused", "login_refused"):
            self._note_refusal(record)
        elif event in ("given", "models_fixed") and self._evaluation_began is None:
            self._evaluation_began = at
        elif event == "round_discarded":
            self._evaluation_began = None
        elif event == "finished" and self._evaluation_began is not None:
            self.seconds["evaluation"] = max(0.0, at - self._evaluation_began)
        if event == "round_opened":
            self._opened.setdefault(record["round"], at)
        elif event == "aggregated":
            opened = self._opened.pop(record["round"], None)
            wall_s = None if opened is None else round(at - opened, 3)
            aggregation_s = record.get("seconds", 0.0)
            self.seconds["aggregation"] += aggregation_s
            self.seconds["collection"] += max(0.0, (wall_s or 0.0) - aggregation_s)
            self.rounds[record["round"]] = RoundStatistics(
                dict(record["sites"]), wall_s, self._bytes.pop(record["round"], 0)
            )
            while len(self.rounds) > _KEPT_ROUNDS:
                del self.rounds[min(self.rounds)]

    def _note_refusal(self, record: Mapping[str, Any]) -> None:
        if record["event"] == "refused":
            reasons = record.get("reasons") or [{"kind": "other"}]
            self.refusals[str(reasons[0]["kind"])] += 1 + record.get("omitted", 0)
            return
        kind, times = str(record["error"]), record.get("times", 1)
        before = self._login_refusals.get((record.get("site", ""), kind), 0)
        # A server that was started again counts from 1.
        self.refusals[kind] += times - before if times > before else times
        self._login_refusals[record.get("site", ""), kind] = times

    def _note_site(self, site: SiteStatistics, event: Any, record: Mapping[str, Any]) -> None:
        if event == "login":
            site.doing = "logged in"
        elif event == "pulled":
            site.received_bytes += record["bytes"]
            site.doing = f"pulled {record['model']}"
        elif event == "scored":
            site.scores = dict(record["scores"])
            site.doing = f"scored model {record['model']}"
        elif event == "pushed":
            site.sent_bytes += record.get("bytes", 0)
            site.updates += 1
            site.last_round = max(site.last_round, record["round"])
            site.doing = f"sent round {record['round']}"
            self._bytes[record["round"]] = self._bytes.get(record["round"], 0) + record.get(
                "bytes", 0
            )
        elif event == "published":
            site.sent_bytes += record["bytes"]
            site.doing = f"lent {record['model']}"
        elif event == "rows":
            site.doing = f"sent {record['rows']} rows"
        elif event == "site_finished":
            site.doing = "finished"
        elif event in ("refused", "login_refused"):
            site.refused += 1
