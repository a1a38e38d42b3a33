"""What a new segment of the log carries on from the lines before it.

Its first line holds this, so that a run goes on, and is audited from there, without the earlier
segments. It does not grow with the number of rounds: only the scores of earlier models and the
digests of earlier rounds are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Carried:
    """The run as a log records it, up to one line."""

    round: int = 0  # the last one that was aggregated
    sha256: str | None = None  # of its global model, if logged
    # (round in which it counts, site) -> (round that it was trained for, its digest, cases); only
    # of rounds that are not aggregated
    pushed: dict[tuple[int, str], tuple[int, str, int]] = dataclasses.field(default_factory=dict)
    num_examples: dict[str, int] = dataclasses.field(default_factory=dict)
    evicted: set[str] = dataclasses.field(default_factory=set)
    # name of a lent model -> (site, digest)
    published: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    rows: dict[str, str] = dataclasses.field(default_factory=dict)  # site -> digest
    fixed: bool = False  # which models are evaluated
    best_round: int | None = None  # once it is fixed
    finished: bool = False
    certificate: str = ""  # of the server that was started last

    def take(self, record: Mapping[str, Any]) -> None:
        """Adds one line; a line of another kind changes nothing."""
        event, site = record["event"], record.get("site", "")
        if event == "started":
            self.certificate = record.get("certificate", "")
        elif event == "login":
            self.num_examples[site] = record.get("num_examples", 0)
        elif event == "pushed":
            number = record.get("round", 0)
            self.pushed[record.get("counts_in", number), site] = (
                number,
                record.get("sha256", ""),
                record.get("num_examples", 0),
            )
        elif event == "aggregated":
            self.round, self.sha256 = record["round"], record.get("sha256")
            self.pushed = {key: found for key, found in self.pushed.items() if key[0] > self.round}
        elif event == "round_discarded":
            self.round, self.sha256 = record["round"] - 1, record.get("sha256")
            self.pushed = {
                key: found for key, found in self.pushed.items() if key[0] < record["round"]
            }
            self.rows, self.fixed, self.best_round = {}, False, None
        elif event == "published":
            self.published[record.get("model", "")] = (site, record.get("sha256", ""))
        elif event == "rows":
            self.rows[site] = record.get("sha256", "")
        elif event == "evicted":
            self.evicted.add(site)
            for name in record.get("models", ()):
                self.published.pop(name, None)
        elif event == "readmitted":
            self.evicted.discard(site)
        if event in ("models_fixed", "finished"):
            self.fixed = self.fixed or event == "models_fixed"
            self.finished = self.finished or event == "finished"
            if self.best_round is None:
                self.best_round = record.get("best_round")

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON, the same for the same run."""
        return {
            **dataclasses.asdict(self),
            "pushed": [[*key, *found] for key, found in sorted(self.pushed.items())],
            "num_examples": dict(sorted(self.num_examples.items())),
            "evicted": sorted(self.evicted),
            "published": {name: list(found) for name, found in sorted(self.published.items())},
            "rows": dict(sorted(self.rows.items())),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Carried:
        """Raises KeyError, TypeError or ValueError for anything else than `to_json` returns."""
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
                "rows": dict(value["rows"]),
            }
        )
