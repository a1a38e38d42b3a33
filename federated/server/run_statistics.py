"""Statistics of a run from its event log, for the status table.

They comprise bytes in each direction, the progress of each site and the duration of each round. If
the first segments of the log have been removed, they cover the remaining lines.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable

from federated.audit.carried import Carried
from federated.rounds.log_lines import LogLine, RefusedLine

_KEPT_ROUNDS = 1000  # only the newest rounds of a longer run are shown


@dataclasses.dataclass
class SiteStatistics:
    """One site. `doing` is its last known action, and `at` the time of that action."""

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
    """One round.

    `wall_s` is the time from its opening to its global model; None if the opening is not in the
    log.
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
      refusals: kind -> number of refused updates, models and logins. The log has only the 1st,
        10th, 100th, ... refusal of a login, so only these logins are counted.
      seconds: phase -> seconds: "collection" (from the opening of a round to its aggregation),
        "aggregation", "upload" and "download" (summed over the transfers, which overlap) and
        "evaluation" (after the last round, once the evaluation has ended).
    """

    def __init__(self, records: Iterable[LogLine] = ()):
        self.sites: dict[str, SiteStatistics] = {}
        self.rounds: dict[int, RoundStatistics] = {}
        self._opened: dict[int, float] = {}
        self._bytes: dict[int, int] = {}
        self.refusals, self.seconds = Counter[str](), defaultdict[str, float](float)
        self._login_refusals: dict[tuple[str, str], int] = {}
        self._evaluation_began: float | None = None
        for record in records:
            self.note(record)

    def note(self, record: LogLine) -> None:
        """Adds one record; a record of an unknown kind changes nothing."""
        at, name = float(record.get("time", 0.0)), record.get("site")
        if isinstance(name, str):
            site = self.sites.setdefault(name, SiteStatistics())
            site.at = at
            self._note_site(site, record)
        self._note_phase(record, at)
        if record["event"] == "round_opened":
            self._opened.setdefault(record["round"], at)
        elif record["event"] == "aggregated":
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
        elif record["event"] == "round_discarded":
            first = record["round"]
            self.rounds = {n: found for n, found in self.rounds.items() if n < first}
            self._opened = {n: when for n, when in self._opened.items() if n < first}
            self._bytes = {n: nbytes for n, nbytes in self._bytes.items() if n < first}

    def _note_phase(self, record: LogLine, at: float) -> None:
        """Adds the seconds of a phase, or the refusal, that a record states."""
        if record["event"] == "refused" or record["event"] == "login_refused":
            self._note_refusal(record)
        elif record["event"] == "pulled":
            self.seconds["download"] += record.get("seconds", 0.0)
        elif record["event"] == "pushed" or record["event"] == "published":
            self.seconds["upload"] += record.get("seconds", 0.0)
        elif record["event"] == "given" or record["event"] == "models_fixed":
            if self._evaluation_began is None:
                self._evaluation_began = at
        elif record["event"] == "log_continued":
            # The line that began the evaluation may have been removed.
            run = Carried.from_json(record["carried"])
            under_way = (run.fixed or run.given) and not run.finished
            if under_way and self._evaluation_began is None:
                self._evaluation_began = at
        elif record["event"] == "round_discarded":
            self._evaluation_began = None
        elif record["event"] == "finished" and self._evaluation_began is not None:
            self.seconds["evaluation"] = max(0.0, at - self._evaluation_began)

    def _note_refusal(self, record: RefusedLine) -> None:
        if record["event"] == "refused":
            reasons = record.get("reasons") or [{"kind": "other"}]
            self.refusals[str(reasons[0]["kind"])] += 1 + record.get("omitted", 0)
            return
        site, kind, times = record.get("site", ""), str(record.get("error")), record.get("times", 1)
        before = self._login_refusals.get((site, kind), 0)
        # A server that was restarted counts from 1.
        self.refusals[kind] += times - before if times > before else times
        self._login_refusals[site, kind] = times

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
