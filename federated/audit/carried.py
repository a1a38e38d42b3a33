"""The state of a run that the first line of a new log segment carries over from earlier lines.

With it, a run can continue, and be audited from there, without the earlier segments. It does not
grow with the number of rounds, because the scores of earlier models and the digests of earlier
rounds are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from federated.rounds.log_lines import LogLine


@dataclasses.dataclass
class Carried:
    """The state of a run as recorded by its log, up to one line."""

    round: int = 0  # the last round that was aggregated
    sha256: str | None = None  # digest of its global model, if logged
    # (round in which it counts, site) -> (round that it was trained for, its digest, cases); only
    # for rounds that are not aggregated
    pushed: dict[tuple[int, str], tuple[int, str, int]] = dataclasses.field(default_factory=dict)
    num_examples: dict[str, int] = dataclasses.field(default_factory=dict)
    evicted: set[str] = dataclasses.field(default_factory=set)
    # name of a lent model -> (site, digest)
    published: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    # name of a model that the operator gave -> digest
    given: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: dict[str, str] = dataclasses.field(default_factory=dict)  # site -> digest
    fixed: bool = False  # whether the models to evaluate are fixed
    best_round: int | None = None  # once it is fixed
    finished: bool = False
    certificate: str = ""  # certificate of the server that was started last

    def take(self, record: LogLine) -> None:
        """Adds one line; lines of other kinds change nothing."""
        if record["event"] == "started":
            self.certificate = record.get("certificate", "")
        elif record["event"] == "login":
            self.num_examples[record["site"]] = record.get("num_examples", 0)
        elif record["event"] == "pushed":
            self.pushed[record.get("counts_in", record["round"]), record["site"]] = (
                record["round"],
                record.get("sha256", ""),
                record.get("num_examples", 0),
            )
        elif record["event"] == "aggregated":
            self.round, self.sha256 = record["round"], record.get("sha256")
            self.pushed = {key: found for key, found in self.pushed.items() if key[0] > self.round}
        elif record["event"] == "round_discarded":
            first = record["round"]
            self.round, self.sha256 = first - 1, record.get("sha256")
            self.pushed = {key: found for key, found in self.pushed.items() if key[0] < first}
            self.rows, self.fixed, self.best_round = {}, False, None
        elif record["event"] == "published":
            self.published[record["model"]] = (record["site"], record["sha256"])
        elif record["event"] == "given":
            self.given[record["model"]] = record["sha256"]
        elif record["event"] == "rows":
            self.rows[record["site"]] = record.get("sha256", "")
        elif record["event"] == "evicted":
            self.evicted.add(record["site"])
            for name in record.get("models", ()):
                self.published.pop(name, None)
        elif record["event"] == "readmitted":
            self.evicted.discard(record["site"])
        elif record["event"] == "models_fixed" or record["event"] == "finished":
            self.fixed = self.fixed or record["event"] == "models_fixed"
            self.finished = self.finished or record["event"] == "finished"
            if self.best_round is None:
                self.best_round = record.get("best_round")

    def to_json(self) -> dict[str, Any]:
        """Returns the state as JSON, the same for the same run."""
        return {
            **dataclasses.asdict(self),
            "pushed": [[*key, *found] for key, found in sorted(self.pushed.items())],
            "num_examples": dict(sorted(self.num_examples.items())),
            "evicted": sorted(self.evicted),
            "published": {name: list(found) for name, found in sorted(self.published.items())},
            "given": dict(sorted(self.given.items())),
            "rows": dict(sorted(self.rows.items())),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Carried:
        """Raises KeyError, TypeError or ValueError for anything that `to_json` does not return."""
        return cls(
            **{
                **value,
                "pushed": {
                    (counts_in, site): (number, sha256, cases)
                    for counts_in, site, number, sha256, cases in value["pushed"]
                },
                "num_examples": dict(value["num_examples"]),
                "evicted": set(value["evicted"]),
                "published": {name: (site, d) for name, (site, d) in value["published"].items()},
                "given": dict(value["given"]),
                "rows": dict(value["rows"]),
            }
        )
